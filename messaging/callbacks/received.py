"""Reports that are journaled and answered take effect: the worker applies them, in groups, oldest first.

One applier at a time, whatever the number of workers: where two apply, the second waits for the first one's commit
and then leaves out what it has done. What a worker that dies had not committed is still `received`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select
from sqlalchemy.exc import DBAPIError

from messaging.callbacks import journal
from messaging.callbacks.apply import Filed, apply_in_halves, explain
from messaging.callbacks.receive import Unusable, read_content
from messaging.reports import find
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.settings import Settings

# 500 take 119 + 27 µs each on PostgreSQL where 8 take 119 + 137; larger groups gain nothing, and other writers wait.
GROUP = 500

# A store that refuses a group for so long is not in passing trouble: it may be one body that it refuses.
TRIED_TOGETHER_FOR = timedelta(seconds=10)

logger = logging.getLogger(__name__)

_OLDEST: Select[Any] = (
    select(
        tables.callbacks.c.id,
        tables.callbacks.c.kind,
        tables.callbacks.c.body,
        tables.callbacks.c.received_at,
    )
    .where(tables.RECEIVED)
    .order_by(tables.callbacks.c.received_at, tables.callbacks.c.id)
)
# By the index that holds nothing else. SQLite would look for their highest id in the whole journal.
_WAITING = select(func.count()).select_from(tables.callbacks).where(tables.RECEIVED)
# In the order in which whoever journals locks them, so that neither waits for the other crosswise.
_STILL_RECEIVED = (
    select(tables.callbacks.c.id)
    .where(one_of(tables.callbacks.c.id, "ids"), tables.RECEIVED)
    .order_by(tables.callbacks.c.digest)
    .with_for_update()
)


def apply_received(
    database: Database, settings: Settings, is_stopping: Callable[[], bool] = lambda: False
) -> int:
    """What was received before the call; how many took effect.

    Not more, so that it ends also where reports come faster than they are applied.
    """
    rows = _read_oldest(database, GROUP)
    waiting = len(rows) if len(rows) < GROUP else _count_waiting(database)
    applied = 0
    while rows:
        applied += _apply(database, settings, rows)
        waiting -= len(rows)
        rows = [] if waiting <= 0 or is_stopping() else _read_oldest(database, min(waiting, GROUP))
    return applied


def _read_oldest(database: Database, most: int) -> Sequence[Row[Any]]:
    with database.read() as connection:
        return connection.execute(_OLDEST.limit(most)).all()


def _count_waiting(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(_WAITING).scalar_one()


def _apply(database: Database, settings: Settings, rows: Sequence[Row[Any]]) -> int:
    """Trouble of the store is no fault of a body, and passes: it raises. After a while each is tried alone."""
    try:
        return _apply_group(database, settings, rows)
    except DBAPIError:
        with database.read() as connection:
            if wall_clock(connection) - rows[0].received_at < TRIED_TOGETHER_FOR:
                raise
    logger.warning("reports are applied one by one: the store refuses them together")
    return sum(_apply_alone(database, settings, row) for row in rows)


def _apply_alone(database: Database, settings: Settings, row: Row[Any]) -> int:
    """One at which the store itself stumbles holds up neither those behind it nor the sweep, which comes after it."""
    try:
        return _apply_group(database, settings, [row])
    except DBAPIError as error:
        with database.write() as connection:
            journal.set_outcome(connection, [row.id], journal.UNAPPLIED, explain(error))
        return 0


def _apply_group(database: Database, settings: Settings, rows: Sequence[Row[Any]]) -> int:
    # Read before the write transaction: on SQLite everybody else waits for that one.
    usable, unusable = _read(rows, settings.default_region)
    with database.write() as connection:
        find.take_turn(connection)
        ids = {"ids": [row.id for row in rows]}
        still = set(connection.execute(_STILL_RECEIVED, ids).scalars())
        due = [one for one in usable if one.callback_id in still]
        failed = set(apply_in_halves(settings, database, connection, due))
        done = [one.callback_id for one in due if one.callback_id not in failed]
        journal.set_outcome(connection, done, journal.APPLIED, None)
        for callback_id in unusable.keys() & still:
            journal.set_outcome(connection, [callback_id], journal.QUARANTINED, unusable[callback_id])
    return len(done)


def _read(rows: Sequence[Row[Any]], default_region: str | None) -> tuple[list[Filed], dict[int, str]]:
    """Also why some cannot be used: with other settings, or another release, than when they came."""
    usable: list[Filed] = []
    unusable: dict[int, str] = {}
    for row in rows:
        try:
            content = read_content(row.kind, bytes(row.body), default_region)
        except Unusable as error:
            unusable[row.id] = str(error)
        else:
            usable.append(Filed(row.id, row.received_at, content))
    return usable, unusable


def oldest_wait(connection: Connection) -> timedelta | None:
    """How long the oldest report that is not applied has waited; None where there is none."""
    oldest = connection.execute(select(func.min(tables.callbacks.c.received_at)).where(tables.RECEIVED))
    received_at = oldest.scalar()
    return None if received_at is None else wall_clock(connection) - received_at
