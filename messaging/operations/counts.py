"""Counters for `/metrics` of what is written down anyway: POSTs in their attempts, callbacks in the journal.

The sweep adds up the rows behind a mark, so that no writer pays for it and no scrape reads a table of a million rows.
They begin with the release that brought them. What the statuses come to is added up beside `hourly_counts`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy import Column, Connection, func, select

from messaging.storage import counters, tables
from messaging.storage.bulk import insert_or_ignore
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database

POSTS = "posts:"
ANSWERED = "answered"
LAST_CALLBACK = "last_callback:"
# Upper ends of a histogram of how long AT took to answer, in seconds; the last step is open.
ANSWER_STEPS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
ANSWER_STEP, ANSWER_MICROS = "answer_step:", "answer_micros"
# On PostgreSQL a row may be committed after one with a higher id: within this time it is there.
SETTLED_AFTER = timedelta(minutes=1)
AT_ONCE = 5000
# Of a journal that is there already.
FIRST_LOOK = 10_000
_ATTEMPTS_MARK, _CALLBACKS_MARK = "attempts_counted", "callbacks_counted"
_MICROSECOND = timedelta(microseconds=1)


def fold(database: Database) -> None:
    while _fold_posts(database) == AT_ONCE:
        pass
    _fold_callbacks(database)


def _fold_posts(database: Database) -> int:
    """How many attempts it has looked at."""
    attempts = tables.attempts.c
    with database.write() as connection:
        mark = _lock_mark(connection, _ATTEMPTS_MARK, _last(connection, attempts.id))
        until = _first_unsettled(connection, wall_clock(connection))
        chosen = attempts.id, attempts.outcome, attempts.reason, attempts.posting_at, attempts.finished_at
        behind = select(*chosen).where(attempts.id > mark, attempts.id < until)
        rows = connection.execute(behind.order_by(attempts.id).limit(AT_ONCE)).all()
        found: Counter[str] = Counter()
        for row in rows:
            # What was given back, or lost by a worker that died before, was no POST that came to anything.
            if row.outcome is not None and row.posting_at is not None:
                found += _of_post(row.outcome, row.reason, row.finished_at - row.posting_at)
        counters.add_all(connection, found)
        if rows:
            counters.put(connection, _ATTEMPTS_MARK, rows[-1].id)
    return len(rows)


def _of_post(outcome: str, reason: str | None, took: timedelta) -> Counter[str]:
    if outcome != ANSWERED:
        return Counter({f"{POSTS}{reason or outcome}": 1})
    step = bisect_left(ANSWER_STEPS, took.total_seconds())
    micros = max(took // _MICROSECOND, 0)
    return Counter({f"{POSTS}{ANSWERED}": 1, f"{ANSWER_STEP}{step}": 1, ANSWER_MICROS: micros})


def _first_unsettled(connection: Connection, now: datetime) -> int:
    """The attempt that may still change, or may have others before it that are not committed yet."""
    attempts = tables.attempts.c
    is_open = connection.execute(select(func.min(attempts.id)).where(tables.OPEN)).scalar()
    # Backwards from the newest: as many as a minute has.
    old = select(attempts.id).where(attempts.claimed_at < now - SETTLED_AFTER).order_by(attempts.id.desc())
    newest_old = connection.execute(old.limit(1)).scalar() or 0
    return newest_old + 1 if is_open is None else min(is_open, newest_old + 1)


def _fold_callbacks(database: Database) -> None:
    """When the last one of each kind came; one that AT repeats is not a new one."""
    callbacks = tables.callbacks.c
    with database.write() as connection:
        last = _last(connection, callbacks.id)
        mark = _lock_mark(connection, _CALLBACKS_MARK, max(last - FIRST_LOOK, 0))
        latest = select(callbacks.kind, func.max(callbacks.received_at).label("at"))
        new = latest.where(callbacks.id > mark, callbacks.id <= last).group_by(callbacks.kind)
        for row in connection.execute(new).all():
            counters.put(connection, f"{LAST_CALLBACK}{row.kind}", int(row.at.timestamp()))
        counters.put(connection, _CALLBACKS_MARK, last)


def _last(connection: Connection, column: Column[int]) -> int:
    return connection.execute(select(func.max(column))).scalar() or 0


def _lock_mark(connection: Connection, name: str, first: int) -> int:
    """Two sweeps at once take turns: the second goes on from where the first has ended."""
    insert_or_ignore(connection, tables.counters, {"name": name, "value": first})
    statement = select(tables.counters.c.value).where(tables.counters.c.name == name).with_for_update()
    mark: int = connection.execute(statement).scalar_one()
    return mark
