"""What happened to messages, as every skin shows it. Reads only; shapes as in `GET /v1/openapi.json`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, TextClause, exists, func, or_, select

from messaging.messages import search
from messaging.messages.history import history_of
from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.time_ranges import within
from utils import reasons
from utils.errors import NotFound
from utils.json_shapes import LARGEST_ID, decode_cursor, money, page, rfc3339
from utils.provider_codes import network_codes, network_name

_MESSAGES = select(
    tables.messages,
    # Of a batch's message it stands there once, not in each of a million rows.
    func.coalesce(tables.messages.c.created_by, tables.batches.c.created_by).label("asked_by"),
    func.coalesce(tables.messages.c.request_id, tables.batches.c.request_id).label("asked_in"),
).outerjoin(tables.batches, tables.batches.c.id == tables.messages.c.batch_id)


@dataclass(frozen=True, slots=True)
class MessageFilters:
    """`to` is E.164; `since` is included, `until` is not (both aware); `q` is any part of the text,
    `text` words of it.

    `became`: came to one of these between `since` and `until`, wherever they stand by now, as figures count them;
    without it those two are about when the message was made. `sender_id`: empty for those that name none.
    """

    to: str | None = None
    status: str | None = None
    batch_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    q: str | None = None
    created_by: str | None = None
    reference: str | None = None
    text: str | None = None
    statuses: tuple[str, ...] = ()
    became: tuple[str, ...] = ()
    reason: str | None = None
    network: str | None = None
    sender_id: str | None = None

    @property
    def is_by_key(self) -> bool:
        """Whether an index leads to the first page; a text or a rare status may be looked for in every row."""
        is_narrow = self.batch_id is not None or self.reference is not None
        is_read_whole = self.q is not None or self.text is not None
        rare = self.status, self.created_by, self.reason, self.network, self.sender_id
        is_rare = rare != (None,) * len(rare) or self.statuses or self.became
        return not is_read_whole and (not is_rare or is_narrow)


def list_messages(
    database: Database, filters: MessageFilters, cursor: str | None = None, limit: int = 50
) -> dict[str, Any]:
    """A page, newest first, without histories. Raises InvalidInput for a bad cursor."""
    before = decode_cursor(cursor)
    with database.read() as connection:
        conditions = _conditions(connection, filters)
        if before is not None:
            conditions.append(tables.messages.c.id < before)
        newest_first = tables.messages.c.id.desc()
        # The ids first, from an index alone: SQLite sorts all that fits, and whole rows of a large batch, texts
        # and all, took thirty times as long.
        ids = select(tables.messages.c.id).where(*conditions).order_by(newest_first).limit(limit + 1)
        statement = _MESSAGES.where(tables.messages.c.id.in_(ids)).order_by(newest_first)
        rows = connection.execute(statement).all()
    return page([message_in_json(row) for row in rows], limit)


def get_message(database: Database, message_id: int) -> dict[str, Any]:
    """One message with its history, oldest first. Raises NotFound."""
    with database.read() as connection:
        row = None
        if 0 < message_id <= LARGEST_ID:
            row = connection.execute(_MESSAGES.where(tables.messages.c.id == message_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no message {message_id}")
        return message_in_json(row) | {"history": history_of(connection, row)}


def message_in_json(row: Row[Any]) -> dict[str, Any]:
    shape = {
        "id": row.id,
        "batch_id": row.batch_id,
        "to": row.recipient,
        "reference": row.reference,
        "text": row.text,
        "sender_id": row.sender_id,
        "origin": row.origin,
        "status": row.status,
        "reason": row.reason,
        **reasons.in_json(row.reason, row.status),
        "provider_message_id": row.provider_message_id,
        "cost": money(row.cost_text),
        "parts": row.parts,
        "estimated_parts": row.estimated_parts,
        "network": network_name(row.network),
        "inbound_id": row.inbound_id,
        "resend_of": row.resend_of,
        "created_by": row.asked_by,
        "request_id": row.asked_in,
        "created_at": rfc3339(row.created_at),
        "sent_at": rfc3339(row.sent_at),
        "finished_at": rfc3339(row.finished_at),
    }
    return {name: value for name, value in shape.items() if value is not None or name not in _OPTIONAL}


_OPTIONAL = frozenset({"reason", "explanation", "remedy"})


def _conditions(connection: Connection, filters: MessageFilters) -> list[ColumnElement[bool] | TextClause]:
    equal = {
        tables.messages.c.recipient: filters.to,
        tables.messages.c.status: filters.status,
        tables.messages.c.batch_id: filters.batch_id,
        tables.messages.c.reference: filters.reference,
        tables.messages.c.reason: filters.reason,
    }
    conditions: list[ColumnElement[bool] | TextClause] = [
        column == wanted for column, wanted in equal.items() if wanted is not None
    ]
    if filters.created_by is not None:
        theirs = select(tables.batches.c.id).where(tables.batches.c.created_by == filters.created_by)
        conditions.append(
            or_(tables.messages.c.created_by == filters.created_by, tables.messages.c.batch_id.in_(theirs))
        )
    if filters.statuses:
        conditions.append(tables.messages.c.status.in_(filters.statuses))
    if filters.network is not None:
        conditions.append(tables.messages.c.network.in_(network_codes(filters.network)))
    if filters.sender_id is not None:
        conditions.append(func.coalesce(tables.messages.c.sender_id, "") == filters.sender_id)
    if filters.q is not None:
        conditions.append(tables.messages.c.text.icontains(filters.q, autoescape=True))
    if filters.text is not None:
        conditions.append(search.has_words(connection, filters.text))
    made = tables.messages, tables.messages.c.created_at
    if filters.became:
        # Before it came to anything it was made: the newer ones need not be looked at.
        return [*conditions, _came_to(connection, filters), *within(connection, *made, None, filters.until)]
    return conditions + within(connection, *made, filters.since, filters.until)


def _came_to(connection: Connection, filters: MessageFilters) -> ColumnElement[bool]:
    """Asked of each message by the index of its events: there is none by status, which every event would pay for."""
    events = tables.message_events
    then = within(connection, events, events.c.at, filters.since, filters.until)
    return exists().where(
        events.c.message_id == tables.messages.c.id, events.c.status.in_(filters.became), *then
    )
