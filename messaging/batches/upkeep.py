"""What time and workers make of batches: begun, finished, the rest of a cancelled one cancelled.

Looked at every second by each worker, never on the way of a POST: a batch of a million pays nothing for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, not_, null, select, update

from messaging import statuses
from messaging.batch_statuses import CANCELLED, FINISHED, PAUSED, RECEIVING, SCHEDULED, SENDING
from messaging.batches.control import BY_HAND, cancel_rest
from messaging.forwarding import events
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database

# Each text of its own that the API took is a batch, so there may be very many: one look sees these.
WINDOW = 1000
# Of one look: the worker's heartbeat waits behind it.
CANCELLING_SECONDS = 0.5


def _has(status: str) -> ColumnElement[bool]:
    """One look into ix_messages_batch, whose order is named: for EXISTS PostgreSQL drops the order, expects to
    meet such a row soon and reads a table of millions from its beginning."""
    one = (
        select(tables.messages.c.status)
        .where(tables.messages.c.batch_id == tables.batches.c.id, tables.messages.c.status == status)
        .order_by(tables.messages.c.cost_currency)
        .limit(1)
    )
    return one.scalar_subquery().is_not(None)


_OPEN_BATCHES = (
    select(
        tables.batches.c.id,
        tables.batches.c.status,
        tables.batches.c.send_at,
        _has(statuses.QUEUED).label("has_queued"),
        _has(statuses.SENDING).label("has_sending"),
        _has(statuses.HELD).label("has_held"),
    )
    .where(tables.UNFINISHED, tables.batches.c.status != RECEIVING)
    .order_by(tables.batches.c.id)
    .limit(WINDOW)
)
# Asked again in the write: a text may have come back into the queue since the look.
_IS_DONE = and_(*(not_(_has(status)) for status in statuses.UNFINISHED))
_FINISH = update(tables.batches).where(one_of(tables.batches.c.id, "ids"), tables.UNFINISHED, _IS_DONE)
# Whoever finishes a batch and whoever brings a text of it back wait here for each other, and look behind it.
_LOCK = (
    select(tables.batches.c.id)
    .where(one_of(tables.batches.c.id, "ids"))
    .order_by(tables.batches.c.id)
    .with_for_update()
)
_BATCHES_OF = select(tables.messages.c.batch_id).where(
    one_of(tables.messages.c.id, "ids"), tables.messages.c.batch_id.is_not(None)
)
_REOPEN = (
    update(tables.batches)
    .where(one_of(tables.batches.c.id, "ids"), tables.batches.c.finished_at.is_not(None))
    .values(
        status=case(
            (tables.batches.c.status != FINISHED, tables.batches.c.status),
            (tables.batches.c.reason.is_not(None), PAUSED),
            else_=SENDING,
        ),
        finished_at=None,
    )
)
# What was paused at its end keeps its reason, which nobody is shown: a text that comes back waits as before.
_PAUSE_OR_NONE = case(
    (tables.batches.c.status == PAUSED, func.coalesce(tables.batches.c.reason, BY_HAND)), else_=null()
)
_BEGIN = (
    update(tables.batches)
    .where(one_of(tables.batches.c.id, "ids"), tables.batches.c.status == SCHEDULED)
    .values(status=SENDING)
)


@dataclass(slots=True)
class BatchUpkeep:
    """One per worker: it remembers where the last look ended."""

    database: Database
    _after_id: int = field(default=0)

    def look(self) -> None:
        with self.database.read() as connection:
            now = wall_clock(connection)
            rows = connection.execute(_OPEN_BATCHES.where(tables.batches.c.id > self._after_id)).all()
        self._after_id = rows[-1].id if len(rows) == WINDOW else 0
        self._move(rows, now)
        self._cancel([row.id for row in rows if row.status == CANCELLED and (row.has_queued or row.has_held)])

    def _move(self, rows: Any, now: datetime) -> None:
        begun = [row.id for row in rows if row.status == SCHEDULED and _is_due(row, now)]
        done = [row.id for row in rows if not (row.has_queued or row.has_sending or row.has_held)]
        if begun or done:
            with self.database.write() as connection:
                _write(connection, begun, done, wall_clock(connection))

    def _cancel(self, batch_ids: list[int]) -> None:
        deadline = time.monotonic() + CANCELLING_SECONDS
        for batch_id in batch_ids:
            if time.monotonic() < deadline:
                cancel_rest(self.database, batch_id, until=deadline)


def _is_due(row: Row[Any], now: datetime) -> bool:
    return row.send_at is None or row.send_at <= now


def reopen(connection: Connection, message_ids: Sequence[int]) -> None:
    """For texts that are queued again though they were unknown: their batch may be finished, and would never send them.

    In the transaction that queues them. What is left of a cancelled batch is cancelled by the next look.
    """
    ids = sorted(set(connection.execute(_BATCHES_OF, {"ids": list(message_ids)}).scalars()))
    if ids:
        connection.execute(_LOCK, {"ids": ids})
        connection.execute(_REOPEN, {"ids": ids})


def _write(connection: Connection, begun: list[int], done: list[int], now: datetime) -> None:
    connection.execute(_BEGIN, {"ids": begun})
    connection.execute(_LOCK, {"ids": done})
    sent = tables.batches.c.status.in_((SENDING, SCHEDULED, PAUSED))
    finished = _FINISH.where(sent).values(status=FINISHED, reason=_PAUSE_OR_NONE, finished_at=now)
    ended = _FINISH.where(tables.batches.c.status == CANCELLED).values(finished_at=now)
    ids: list[int] = []
    for statement in (finished, ended):
        ids += connection.execute(statement.returning(tables.batches.c.id), {"ids": done}).scalars()
    events.note_batches(connection, sorted(ids), now)
