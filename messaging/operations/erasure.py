"""What is older than RETENTION_DAYS loses its numbers and texts; counts, costs and opt-outs stay.

A sweep does a part of it each minute, in small transactions with room between them, so that callbacks keep their speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Table, case, delete, func, select, update

from messaging import statuses
from messaging.batch_statuses import CANCELLED, FINISHED
from messaging.callbacks import journal
from messaging.conversations import replies
from messaging.messages import search
from messaging.storage import free_pages, tables
from messaging.storage.bulk import insert_for, one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.time_ranges import first_id_from

# Looked at in one read, and changed in one write.
WINDOW = 5000
CHUNK = 500
# Between two writes: SQLite's other writers poll for the lock and have to find it free.
BREATH_SECONDS = 0.01
# Of a sweep. What is left comes in the next one.
SECONDS = 10.0
# A report may settle a message so long after it was sent.
REPORTS_COME = timedelta(hours=72)
# In place of a number in what says who did something to whom.
ERASED: Final = "erased"
# Nothing happens to these any more, but that a late report moves some of them.
_AT_REST = (*statuses.SETTLED, statuses.ACCEPTED, statuses.UNKNOWN)
Erase = Callable[[Connection, Sequence[int]], object]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Rows of one table. `wanted`: those that still hold something."""

    table: Table
    at: Column[Any]
    wanted: ColumnElement[bool]
    erase: Erase


def erase_old(database: Database, retention: timedelta, seconds: float = SECONDS) -> int:
    """How many rows lost what they held; more may be left after `seconds`."""
    end = time.monotonic() + seconds
    with database.read() as connection:
        today = wall_clock(connection)
    before = today - max(retention, REPORTS_COME)
    erased = 0
    for kind in _KINDS:
        for ids in _old_ids(database, kind, before, today):
            with database.write() as connection:
                kind.erase(connection, ids)
            erased += len(ids)
            if time.monotonic() > end:
                return erased
            time.sleep(BREATH_SECONDS)
    if erased:
        search.purge(database)
    # What an earlier sweep had no time for, too.
    given_back = free_pages.give_back(database)
    if database.is_sqlite and (erased or given_back):
        # On PostgreSQL the old rows go with its next VACUUM, which it makes by itself.
        database.truncate_log()
    return erased


def _old_ids(database: Database, kind: _Kind, before: datetime, today: datetime) -> Iterator[list[int]]:
    """In chunks. Where it stopped is kept, and once a day it begins anew: what was not at rest may be so by now."""
    table = kind.table
    with database.read() as connection:
        after = _place(connection, table, today)
        last = first_id_from(connection, table, kind.at, before) - 1
    while after < last:
        window = table.c.id > after, table.c.id <= after + WINDOW, kind.at < before, kind.wanted
        with database.read() as connection:
            found = list(connection.execute(select(table.c.id).where(*window).order_by(table.c.id)).scalars())
        for start in range(0, len(found), CHUNK):
            yield found[start : start + CHUNK]
        after = min(after + WINDOW, last)
        with database.write() as connection:
            _keep_place(connection, table, after, today)


def _place(connection: Connection, table: Table, today: datetime) -> int:
    """The id up to which all was looked at today."""
    names = _place_name(table), _day_name(table)
    statement = select(tables.counters.c.name, tables.counters.c.value).where(
        tables.counters.c.name.in_(names)
    )
    kept = dict(connection.execute(statement).all())
    return kept.get(names[0], 0) if kept.get(names[1]) == today.toordinal() else 0


def _keep_place(connection: Connection, table: Table, after: int, today: datetime) -> None:
    for name, value in ((_place_name(table), after), (_day_name(table), today.toordinal())):
        statement = insert_for(connection, tables.counters).values(name=name, value=value)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[tables.counters.c.name], set_={"value": statement.excluded.value}
            )
        )


def _place_name(table: Table) -> str:
    return f"erased_{table.name}"


def _day_name(table: Table) -> str:
    return f"erased_{table.name}_day"


def _setting(table: Table, **values: Any) -> Erase:
    statement = update(table).where(one_of(table.c.id, "ids")).values(**values)
    return lambda connection, ids: connection.execute(statement, {"ids": ids})


def erase_messages(connection: Connection, ids: Sequence[int]) -> None:
    """Their histories keep the statuses and lose the words."""
    wanted = {"ids": ids}
    search.remove(connection, ids)
    connection.execute(_BLANK_MESSAGES, wanted)
    connection.execute(_BLANK_HISTORY, wanted)


_BLANK_MESSAGES = (
    update(tables.messages)
    .where(one_of(tables.messages.c.id, "ids"))
    .values(recipient="", text="", reference=None, cells=None, request_id=None)
)
_BLANK_HISTORY = (
    update(tables.message_events).where(one_of(tables.message_events.c.message_id, "ids")).values(detail=None)
)
erase_callbacks: Final = _setting(tables.callbacks, body=b"", detail=None)
# With its number gone nobody is left to answer: a handler that runs now finds that its text waits no more.
_NO_ANSWER = case(
    (
        tables.inbound_messages.c.reply_outcome.in_((replies.WAITING, replies.HELD, replies.FAILED)),
        replies.CANCELLED,
    ),
    else_=tables.inbound_messages.c.reply_outcome,
)
erase_inbound: Final = _setting(
    tables.inbound_messages,
    sender="",
    text="",
    held_texts=None,
    reply_error=None,
    reply_outcome=_NO_ANSWER,
    reply_due_at=None,
)
erase_reports: Final = _setting(tables.delivery_reports, recipient=None)
erase_actions: Final = _setting(tables.actions, subject=f"phone:{ERASED}", before=None, after=None)
_KINDS: Final = (
    _Kind(
        tables.messages,
        tables.messages.c.created_at,
        # The id of its request is the caller's own word.
        ((tables.messages.c.recipient != "") | tables.messages.c.request_id.is_not(None))
        & tables.messages.c.status.in_(_AT_REST),
        erase_messages,
    ),
    _Kind(
        tables.attempts,
        tables.attempts.c.claimed_at,
        tables.attempts.c.answer.is_not(None),
        _setting(tables.attempts, answer=None, provider_message=None),
    ),
    _Kind(
        tables.callbacks,
        # AT may repeat one for hours.
        tables.callbacks.c.received_at,
        (func.length(tables.callbacks.c.body) > 0) & (tables.callbacks.c.outcome != journal.RECEIVED),
        erase_callbacks,
    ),
    _Kind(
        tables.inbound_messages,
        tables.inbound_messages.c.received_at,
        tables.inbound_messages.c.sender != "",
        erase_inbound,
    ),
    _Kind(
        tables.delivery_reports,
        tables.delivery_reports.c.received_at,
        tables.delivery_reports.c.recipient.is_not(None),
        erase_reports,
    ),
    _Kind(
        tables.batches,
        tables.batches.c.created_at,
        (tables.batches.c.template.is_not(None) | tables.batches.c.request_id.is_not(None))
        & tables.batches.c.status.in_((FINISHED, CANCELLED)),
        _setting(tables.batches, template=None, request_id=None),
    ),
    _Kind(
        tables.actions,
        tables.actions.c.at,
        tables.actions.c.subject.like("phone:%") & (tables.actions.c.subject != f"phone:{ERASED}"),
        erase_actions,
    ),
)


def erase_conversations(database: Database, before: datetime) -> int:
    """Whoever has not written since."""
    old = select(tables.conversations.c.phone).where(tables.conversations.c.last_at < before).limit(CHUNK)
    count = 0
    while True:
        with database.write() as connection:
            gone = connection.execute(
                delete(tables.conversations).where(tables.conversations.c.phone.in_(old))
            ).rowcount
        count += gone
        if gone < CHUNK:
            return count
