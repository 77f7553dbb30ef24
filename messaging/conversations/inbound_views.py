"""The texts that came, as every skin shows them, and what a person decides about those that got no answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, TextClause, select, update

from messaging.access import actions
from messaging.consent import ledger
from messaging.conversations import replies
from messaging.conversations.replies import CANCELLED, FAILED, HELD, QUEUED, WAITING, Outcome, Reply
from messaging.messages.held import NotHeld
from messaging.storage import rollback, tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database, wake_after_commit
from messaging.storage.time_ranges import within
from utils.errors import NotFound, OptedOut
from utils.json_shapes import LARGEST_ID, decode_cursor, money, page, rfc3339
from utils.provider_codes import network_name


@dataclass(frozen=True, slots=True)
class InboundFilters:
    """`sender` is E.164 or as it came; `reply` one of the outcomes; `since` is included, `until` is not."""

    sender: str | None = None
    recipient: str | None = None
    meaning: str | None = None
    possible_opt_out: bool | None = None
    reply: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_ANSWERS = (
    select(tables.messages.c.inbound_id, tables.messages.c.status)
    .where(one_of(tables.messages.c.recipient, "phones"), one_of(tables.messages.c.inbound_id, "ids"))
    .order_by(tables.messages.c.id)
)


def list_inbound(
    database: Database, filters: InboundFilters, cursor: str | None = None, limit: int = 50
) -> dict[str, Any]:
    """A page, newest first. Raises InvalidInput for a bad cursor."""
    before = decode_cursor(cursor)
    with database.read() as connection:
        conditions = _conditions(connection, filters)
        if before is not None:
            conditions.append(tables.inbound_messages.c.id < before)
        statement = (
            select(tables.inbound_messages).where(*conditions).order_by(tables.inbound_messages.c.id.desc())
        )
        rows = connection.execute(statement.limit(limit + 1)).all()
        answered = reply_statuses(connection, rows)
    return page([inbound_in_json(row) | {"reply": reply_of(row, answered)} for row in rows], limit)


def reply_statuses(connection: Connection, rows: Sequence[Row[Any]]) -> dict[int, str]:
    """What became of the answers that were queued, by inbound id; of several texts the last counts."""
    queued = [row for row in rows if row.reply_outcome == QUEUED]
    if not queued:
        return {}
    # By recipient, for of that there is an index.
    found = connection.execute(
        _ANSWERS, {"phones": [row.sender for row in queued], "ids": [row.id for row in queued]}
    )
    return {row.inbound_id: row.status for row in found}


def reply_of(row: Row[Any], answered: Mapping[int, str]) -> str | None:
    outcome: str | None = row.reply_outcome
    return answered.get(row.id, outcome)


def _conditions(connection: Connection, filters: InboundFilters) -> list[ColumnElement[bool] | TextClause]:
    equal = {
        tables.inbound_messages.c.sender: filters.sender,
        tables.inbound_messages.c.recipient: filters.recipient,
        tables.inbound_messages.c.meaning: filters.meaning,
        tables.inbound_messages.c.reply_outcome: filters.reply,
        tables.inbound_messages.c.possible_opt_out: filters.possible_opt_out,
    }
    conditions: list[ColumnElement[bool] | TextClause] = [
        column == wanted for column, wanted in equal.items() if wanted is not None
    ]
    if filters.reply in (HELD, FAILED):
        # In the words of their index, which has only these few.
        conditions.append(tables.NOT_ANSWERED)
    if filters.possible_opt_out:
        conditions.append(tables.POSSIBLE_OPT_OUT)
    received_at = tables.inbound_messages.c.received_at
    conditions += within(connection, tables.inbound_messages, received_at, filters.since, filters.until)
    return conditions


def inbound_in_json(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "provider_inbound_id": row.provider_inbound_id,
        "from": row.sender,
        "to": row.recipient,
        "text": row.text,
        "meaning": row.meaning,
        "possible_opt_out": row.possible_opt_out,
        "link_id": row.link_id,
        "network": network_name(row.network),
        "cost": money(row.cost_text),
        "provider_date": row.provider_date,
        "received_at": rfc3339(row.received_at),
        "callback_id": row.callback_id,
        "reply": row.reply_outcome,
        "reply_tries": row.reply_tries,
        "reply_error": row.reply_error,
        "held_texts": replies.as_texts(row.held_texts),
    }


def release(database: Database, inbound_id: int) -> dict[str, Any]:
    """Sends what the loop breaker holds, or gives a failed text to its handler again; the text as it is then.

    Raises Recovering, NotFound, NotHeld, OptedOut.
    """
    with database.write(settled=True) as connection:
        # It may have been released, and have left, after the state that the database was put back to.
        rollback.require(connection, wall_clock(connection))
        row = _find(connection, inbound_id)
        if row.reply_outcome == HELD:
            _send_held(connection, row)
        elif row.reply_outcome == FAILED:
            _try_again(connection, row)
        else:
            raise NotHeld("Only a text whose answer is held, or whose handler failed, can be released")
        before = {"reply": row.reply_outcome}
        actions.note(connection, "reply.release", f"reply:{row.id}", before)
        return inbound_in_json(_find(connection, inbound_id))


def cancel(database: Database, inbound_id: int) -> dict[str, Any]:
    """What the loop breaker holds is never sent; the text as it is then. Raises NotFound, NotHeld."""
    with database.write(settled=True) as connection:
        if _find(connection, inbound_id).reply_outcome != HELD:
            raise NotHeld("Only an answer that is held can be cancelled")
        replies.note(connection, [Outcome(inbound_id, CANCELLED)])
        actions.note(connection, "reply.cancel", f"reply:{inbound_id}", {"reply": HELD})
        return inbound_in_json(_find(connection, inbound_id))


def _find(connection: Connection, inbound_id: int) -> Row[Any]:
    wanted = tables.inbound_messages.c.id == min(inbound_id, LARGEST_ID)
    row = connection.execute(select(tables.inbound_messages).where(wanted).with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"There is no inbound message {inbound_id}")
    return row


def _send_held(connection: Connection, row: Row[Any]) -> None:
    if ledger.suppressed(connection, [row.sender], row.recipient):
        raise OptedOut
    texts = tuple(replies.as_texts(row.held_texts))
    reply = Reply(row.id, row.sender, row.recipient, texts, row.link_id)
    replies.put_in_queue(connection, [reply])
    replies.note(connection, [Outcome(row.id, QUEUED)])


def _try_again(connection: Connection, row: Row[Any]) -> None:
    due_at = steady(connection, wall_clock(connection))
    replies.note(connection, [Outcome(row.id, WAITING, due_at=due_at)])
    # A try from before that still hangs may then carry a number that comes again; even so only one records.
    connection.execute(
        update(tables.inbound_messages).where(tables.inbound_messages.c.id == row.id).values(reply_tries=0)
    )
    wake_after_commit(connection)
