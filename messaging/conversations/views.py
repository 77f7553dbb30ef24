"""Conversations as every skin shows them: who wrote to us, and both directions of one phone in our order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from heapq import merge
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Table, func, select

from messaging.conversations import threads
from messaging.conversations.inbound_views import reply_of, reply_statuses
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.database import Database
from messaging.storage.time_ranges import CLOCK_SLACK, first_id_from
from utils.json_shapes import LARGEST_ID, decode_cursor, decode_cursors, encode_cursor, page, rfc3339

_LAST_MESSAGE_ID = (
    select(func.max(tables.messages.c.id))
    .where(tables.messages.c.recipient == tables.conversations.c.phone)
    .scalar_subquery()
)


class _Line(NamedTuple):
    """One text of either direction. Ours comes after theirs of the same moment."""

    at: datetime
    is_ours: bool
    id: int
    shown: dict[str, Any]


def list_conversations(
    database: Database,
    cursor: str | None = None,
    limit: int = 50,
    *,
    only_unread: bool = False,
    only_read: bool = False,
    since: datetime | None = None,
) -> dict[str, Any]:
    """A page: whoever wrote last comes first. `since`: only who wrote then or later. Raises InvalidInput for a bad
    cursor."""
    before = decode_cursor(cursor)
    statement = select(tables.conversations, _LAST_MESSAGE_ID.label("last_message_id"))
    if before is not None:
        statement = statement.where(tables.conversations.c.last_inbound_id < before)
    if only_unread:
        statement = statement.where(tables.UNREAD)
    if only_read:
        statement = statement.where(tables.conversations.c.unread == 0)
    statement = statement.order_by(tables.conversations.c.last_inbound_id.desc()).limit(limit + 1)
    with database.read() as connection:
        if since is not None:
            statement = statement.where(*wrote_since(connection, since))
        rows = connection.execute(statement).all()
        inbound = _by_id(connection, tables.inbound_messages, [row.last_inbound_id for row in rows])
        sent = _by_id(
            connection, tables.messages, [row.last_message_id for row in rows if row.last_message_id]
        )
        answered = reply_statuses(connection, list(inbound.values()))
    items = [_conversation(row, inbound, sent, answered) for row in rows]
    return page(items, limit, by="last_inbound_id")


def wrote_since(connection: Connection, since: datetime) -> list[ColumnElement[bool]]:
    inbound, conversations = tables.inbound_messages, tables.conversations.c
    first_id = first_id_from(connection, inbound, inbound.c.received_at, since - CLOCK_SLACK)
    return [conversations.last_at >= since, conversations.last_inbound_id >= first_id]


def _by_id(connection: Connection, table: Table, ids: Sequence[int]) -> dict[int, Row[Any]]:
    found = connection.execute(select(table).where(one_of(table.c.id, "ids")), {"ids": list(ids)})
    return {row.id: row for row in found}


def _conversation(
    row: Row[Any], inbound: dict[int, Row[Any]], sent: dict[int, Row[Any]], answered: Mapping[int, str]
) -> dict[str, Any]:
    lines = [_their_line(inbound[row.last_inbound_id], answered)] if row.last_inbound_id in inbound else []
    if row.last_message_id in sent:
        lines.append(_our_line(sent[row.last_message_id]))
    return {
        "phone": row.phone,
        "number": row.number,
        "unread": row.unread,
        "last_inbound_id": row.last_inbound_id,
        "last_inbound_at": rfc3339(row.last_at),
        "latest": max(lines, key=_order).shown if lines else None,
    }


def get_conversation(
    database: Database, phone: str, cursor: str | None = None, limit: int = 50
) -> dict[str, Any]:
    """A page of both directions, latest first, with what is unread. Raises NotFound, InvalidInput.

    The order is that of our own clock: what came late was seen late, whatever date AT gives it.
    """
    theirs_before, ours_before = (LARGEST_ID, LARGEST_ID) if cursor is None else decode_cursors(cursor, 2)
    with database.read() as connection:
        row = threads.find(connection, phone)
        theirs = _latest(
            connection, tables.inbound_messages, tables.inbound_messages.c.sender, phone, theirs_before, limit
        )
        answered = reply_statuses(connection, theirs)
        ours = _latest(connection, tables.messages, tables.messages.c.recipient, phone, ours_before, limit)
    # Greedy, so that each row of texts keeps the order of its ids, which the cursor goes by.
    lines = list(
        merge(map(_our_line, ours), (_their_line(one, answered) for one in theirs), key=_order, reverse=True)
    )
    shown = lines[:limit]
    next_cursor = None
    if len(lines) > limit:
        last_theirs = min((line.id for line in shown if not line.is_ours), default=theirs_before)
        last_ours = min((line.id for line in shown if line.is_ours), default=ours_before)
        next_cursor = encode_cursor(last_theirs, last_ours)
    return {
        "phone": row.phone,
        "number": row.number,
        "unread": row.unread,
        "items": [line.shown for line in shown],
        "next_cursor": next_cursor,
    }


def _latest(
    connection: Connection, table: Table, owner: Any, phone: str, before: int, limit: int
) -> Sequence[Row[Any]]:
    statement = select(table).where(owner == phone, table.c.id < before)
    return connection.execute(statement.order_by(table.c.id.desc()).limit(limit + 1)).all()


def _order(line: _Line) -> tuple[datetime, bool, int]:
    return line[:3]


def _their_line(row: Row[Any], answered: Mapping[int, str]) -> _Line:
    shown = {
        "direction": "in",
        "id": row.id,
        "at": rfc3339(row.received_at),
        "text": row.text,
        "number": row.recipient,
        "meaning": row.meaning,
        "possible_opt_out": row.possible_opt_out,
        "reply": reply_of(row, answered),
        "provider_date": row.provider_date,
    }
    return _Line(row.received_at, False, row.id, shown)


def _our_line(row: Row[Any]) -> _Line:
    shown = {
        "direction": "out",
        "id": row.id,
        "at": rfc3339(row.created_at),
        "text": row.text,
        "number": row.sender_id,
        "status": row.status,
        "origin": row.origin,
        "inbound_id": row.inbound_id,
    }
    return _Line(row.created_at, True, row.id, shown)
