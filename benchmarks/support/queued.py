"""Batches of queued messages, put there in bulk and held back until their start; and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, exists, func, insert, select, update

from benchmarks.support.bare_sender import EQUAL_TEXT, SENDER_ID, text_for
from benchmarks.support.processes import CannotMeasure
from benchmarks.support.stores import settle_statistics
from messaging import statuses
from messaging.storage import tables
from messaging.storage.bulk import as_stored, insert_rows
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from messaging.storage.new_ids import reserve_ids

CHUNK = 10_000
# Of a Kenyan number, with which the ids of our provider end.
DIGITS = 12

_MESSAGE_COLUMNS = (
    "id",
    "recipient",
    "text",
    "text_group",
    "batch_id",
    "sender_id",
    "origin",
    "priority",
    "status",
    "on_unknown",
    "due_at",
    "estimated_parts",
    "created_at",
)
_HISTORY_COLUMNS = ("message_id", "at", "status", "source")


@dataclass(frozen=True, slots=True)
class Held:
    """A batch to `count` numbers from `first` on (without the plus)."""

    batch_id: int
    first: int
    count: int


def hold_batch(database: Database, first: int, count: int, texts: int = 1) -> Held:
    """Its messages are queued, but no worker touches them: it is paused. `texts` take turns; 0: each has its own."""
    with database.write() as connection:
        row = {"status": "paused", "sender_id": SENDER_ID, "total": count, "created_at": utc_now()}
        batch_id = connection.execute(
            insert(tables.batches).values(row).returning(tables.batches.c.id)
        ).scalar_one()
    numbers, due = range(first, first + count), utc_now()
    for start in range(0, count, CHUNK):
        _insert(database, batch_id, numbers[start : start + CHUNK], texts, due)
    settle_statistics(database)
    return Held(batch_id, first, count)


def _insert(database: Database, batch_id: int, numbers: range, texts: int, due: datetime) -> None:
    with database.write() as connection:
        now = as_stored(connection, utc_now())
        due_at = as_stored(connection, due)
        ids = reserve_ids(connection, tables.messages, len(numbers))
        common = (batch_id, SENDER_ID, "api", 5, statuses.QUEUED, "hold", due_at, 1, now)
        groups = [number % texts if texts else number for number in numbers]
        rows = [
            (message_id, f"+{number}", EQUAL_TEXT if texts == 1 else text_for(group), group, *common)
            for message_id, number, group in zip(ids, numbers, groups, strict=True)
        ]
        insert_rows(connection, tables.messages, _MESSAGE_COLUMNS, rows)
        history = [(message_id, now, statuses.QUEUED, "benchmark") for message_id in ids]
        insert_rows(connection, tables.message_events, _HISTORY_COLUMNS, history)


def set_batch(database: Database, batch_id: int, status: str) -> None:
    with database.write() as connection:
        connection.execute(
            update(tables.batches).where(tables.batches.c.id == batch_id).values(status=status)
        )


def count_open(database: Database) -> int:
    """POSTs that are claimed or under way."""
    return _count(database, select(func.count()).select_from(tables.attempts).where(tables.OPEN))


def first_attempt(database: Database, held: Held) -> int:
    mine = tables.messages.c.batch_id == held.batch_id
    return _count(database, select(func.min(tables.messages.c.attempt_id)).where(mine))


def first_claim(database: Database, held: Held) -> datetime:
    query = select(tables.attempts.c.claimed_at).where(tables.attempts.c.id == first_attempt(database, held))
    with database.read() as connection:
        claimed_at: datetime = connection.execute(query).scalar_one()
    return claimed_at


def require_all(database: Database, held: Held, status: str) -> None:
    """Raises CannotMeasure where a message has another status, another's answer or a gap in its history."""
    digits = func.substr(tables.messages.c.recipient, 2)
    answered = func.substr(
        tables.messages.c.provider_message_id,
        func.length(tables.messages.c.provider_message_id) - (DIGITS - 1),
    )
    event = exists().where(
        tables.message_events.c.message_id == tables.messages.c.id, tables.message_events.c.status == status
    )
    counts = (
        select(func.count()).select_from(tables.messages).where(tables.messages.c.batch_id == held.batch_id)
    )
    questions = {
        status: counts.where(tables.messages.c.status == status),
        "with the answer to their own number": counts.where(answered == digits),
        "so in the history": counts.where(event),
    }
    found = {what: _count(database, question) for what, question in questions.items()}
    if set(found.values()) != {held.count} or count_open(database):
        raise CannotMeasure(f"{held.count} messages should be {status}, but of them are {found}")


def count_by_status(database: Database, held: Held) -> dict[str, int]:
    mine = tables.messages.c.batch_id == held.batch_id
    by_status = select(tables.messages.c.status, func.count()).where(mine).group_by(tables.messages.c.status)
    with database.read() as connection:
        return {row.status: row[1] for row in connection.execute(by_status)}


def _count(database: Database, query: Select[tuple[int]]) -> int:
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())
