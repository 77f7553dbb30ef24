"""Who wrote to us: one row per phone, kept with each text in the text's own transaction; and what a person answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, func, select, update

from messaging import statuses
from messaging.consent import ledger
from messaging.messages import idempotency, lost_texts
from messaging.messages.accept import Acceptance, validate_text
from messaging.messages.queue import REPLY_PRIORITY, NewMessage, enqueue
from messaging.storage import rollback, tables
from messaging.storage.bulk import insert_for
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.errors import NotFound, OptedOut
from utils.segments import measure
from utils.texts import compose

ROUTE = "conversation"
ORIGIN = "chat"


class Heard(NamedTuple):
    """A text of `phone` (E.164), just kept; `number` is ours."""

    phone: str
    number: str
    inbound_id: int
    at: datetime


def heard(connection: Connection, texts: Sequence[Heard]) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for one in sorted(texts, key=lambda text: text.inbound_id):
        unread = rows.get(one.phone, {}).get("unread", 0) + 1
        rows[one.phone] = {
            "phone": one.phone,
            "number": one.number,
            "last_inbound_id": one.inbound_id,
            "last_at": one.at,
            "unread": unread,
        }
    if not rows:
        return
    insert = insert_for(connection, tables.conversations)
    given = insert.excluded
    is_later = given.last_inbound_id > tables.conversations.c.last_inbound_id
    later = {
        name: case((is_later, given[name]), else_=tables.conversations.c[name])
        for name in ("number", "last_inbound_id", "last_at")
    }
    upsert = insert.on_conflict_do_update(
        index_elements=[tables.conversations.c.phone],
        set_=later | {"unread": tables.conversations.c.unread + given.unread},
    )
    # In one order, so that two groups with phones in common cannot wait for each other.
    connection.execute(upsert, [rows[phone] for phone in sorted(rows)])


def mark_read(database: Database, phone: str, up_to: int | None = None) -> int:
    """How many texts of `phone` are unread still: those after the inbound id `up_to`. Raises NotFound."""
    with database.write() as connection:
        row = find(connection, phone, for_update=True)
        after = row.last_inbound_id if up_to is None else up_to
        unread: int = 0
        if after < row.last_inbound_id:
            newer = (tables.inbound_messages.c.sender == phone, tables.inbound_messages.c.id > after)
            unread = connection.execute(select(func.count()).where(*newer)).scalar_one()
        unread = min(unread, int(row.unread))
        connection.execute(
            update(tables.conversations).where(tables.conversations.c.phone == phone).values(unread=unread)
        )
        return unread


def find(connection: Connection, phone: str, *, for_update: bool = False) -> Any:
    """The row. Raises NotFound."""
    statement = select(tables.conversations).where(tables.conversations.c.phone == phone)
    if for_update:
        statement = statement.with_for_update()
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise NotFound("This phone has never written to us", field="phone")
    return row


def say(database: Database, phone: str, text: str, idempotency_key: str | None = None) -> Acceptance:
    """Queues a person's answer, from the number that `phone` wrote to last.

    Raises NotFound, OptedOut, EmptyMessage, InvalidInput, KeyReused, Recovering.
    """
    validate_text(text)
    with database.write(settled=True) as connection:
        now = wall_clock(connection)
        rollback.require(connection, now)
        if idempotency_key is not None:
            mark = idempotency.fingerprint([phone, text])
            earlier = idempotency.begin(connection, ROUTE, idempotency_key, mark, now)
            if earlier is not None and earlier.answer is not None:
                return Acceptance(earlier.answer, is_replay=True)
        body = _say(connection, find(connection, phone), text, now)
        if idempotency_key is not None:
            idempotency.finish(connection, ROUTE, idempotency_key, body)
    return Acceptance(body)


def _say(connection: Connection, conversation: Any, text: str, now: datetime) -> dict[str, Any]:
    phone, number, text = conversation.phone, conversation.number, compose(text)
    if ledger.suppressed(connection, [phone], number):
        raise OptedOut
    new = NewMessage(
        phone, text, number, origin=ORIGIN, priority=REPLY_PRIORITY, estimated_parts=measure(text).parts
    )
    (message_id,) = enqueue(connection, [new])
    made = lost_texts.MadeAnew(message_id, phone, number, text)
    # A form has a key of its own for each page, and the key of then may be lost with the rest.
    has_left = lost_texts.settle_answer(connection, made, now)
    status = statuses.UNKNOWN if has_left else statuses.QUEUED
    return {"id": message_id, "to": phone, "sender_id": number, "status": status}
