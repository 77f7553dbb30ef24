"""Two clocks. Dates go by the wall clock, which people and NTP may set; durations by one that nobody sets.

`now` is the wall clock everywhere. Where a column means a duration (a lease, a backoff, a heartbeat), `steady` turns
it into steady time: the wall clock of the first start, carried on by the boot clock, which also counts while the
machine sleeps. A step of the wall clock changes the difference between the two and nothing else.

`clock_anchors` ties the boot clock of each machine to steady time, for as long as it is not started anew. After a
start steady time goes on where it was last seen, and for the time in between the wall clock is believed.

On PostgreSQL leases are shared by many machines, so they go by the database's clock, and `steady` changes nothing.
What must not be forgotten too soon goes by `by_boot_clock` there too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, select, text, update

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from utils.deadlines import boot_clock

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Below this the wall clock is believed: two readings are never quite of one moment, and a leap second is no step.
TOLERANCE = timedelta(seconds=1)
LARGE_STEP = timedelta(minutes=1)
# A machine that has not been seen for so long is gone.
ANCHOR_KEPT = timedelta(days=30)
_CLOCKS = "clocks"
_OFFSET = "steady_offset"
_MICROSECOND = timedelta(microseconds=1)
_SERVER_CLOCK = text("SELECT clock_timestamp()")

_ANCHORS = select(tables.clock_anchors)
_LATEST = _ANCHORS.order_by(tables.clock_anchors.c.seen_steady_at.desc()).limit(1)

logger = logging.getLogger(__name__)


class _Anchor(NamedTuple):
    """At `boot_at` of the boot clock it was `steady_at`."""

    boot_at: timedelta
    steady_at: datetime


class Step(NamedTuple):
    """`by`: positive where the wall clock was set forward."""

    at: datetime
    by: timedelta


def wall_clock(connection: Connection) -> datetime:
    """Now: PostgreSQL's own, else this machine's. For durations: `steady`."""
    clocks: Clocks = connection.info[_CLOCKS]
    return clocks.now(connection)


def steady(connection: Connection, at: datetime) -> datetime:
    """The moment `at` of the wall clock, as it stands in columns that mean a duration."""
    return by_boot_clock(connection, at) if connection.dialect.name == "sqlite" else at


def by_wall(connection: Connection, at: datetime) -> datetime:
    """Back again: a moment of steady time, for a person or for a comparison with `now`."""
    return at - (steady(connection, at) - at)


def by_boot_clock(connection: Connection, at: datetime) -> datetime:
    """The same on both stores."""
    offset: timedelta | None = connection.info.get(_OFFSET)
    if offset is None:
        clocks: Clocks = connection.info[_CLOCKS]
        offset = clocks.measure(connection, clocks.wall(connection))
    return at + offset


class Clocks:
    """The clocks of one `Database`. `wall`: the one that its dates go by."""

    def __init__(self) -> None:
        self.wall: Callable[[Connection], datetime] = _read_wall_clock
        self.boot = boot_clock
        self._anchor: _Anchor | None = None
        self._offset = timedelta()

    def attach(self, record: Any) -> None:
        """To the record of a new connection in the pool, so that `steady` finds them."""
        record.info[_CLOCKS] = self

    def begin(self, connection: Connection) -> None:
        """What an earlier transaction measured counts no more."""
        connection.info.pop(_OFFSET, None)

    def now(self, connection: Connection) -> datetime:
        wall = self.wall(connection)
        # PostgreSQL is asked for an idempotency key only: that saves each other transaction the look.
        connection.info.pop(_OFFSET, None)
        if connection.dialect.name == "sqlite":
            self.measure(connection, wall)
        return wall

    def measure(self, connection: Connection, wall: datetime) -> timedelta:
        """The offset of steady time from the wall clock at `wall`, kept for this transaction."""
        offset: timedelta = self._measure(connection, wall)
        connection.info[_OFFSET] = offset
        return offset

    def _measure(self, connection: Connection, wall: datetime) -> timedelta:
        """How far steady time is ahead of the wall clock: one fixed value between two steps."""
        anchor = self._anchor or self._find_anchor(connection)
        if anchor is None:
            # Before the first look of this start: as that look will find it.
            last = connection.execute(_LATEST).one_or_none()
            return timedelta() if last is None else _carried_on(last, wall) - wall
        measured = anchor.steady_at + (self._boot() - anchor.boot_at) - wall
        known = self._offset
        if abs(measured - known) > TOLERANCE:
            self._offset = known = measured
        return known

    def _find_anchor(self, connection: Connection) -> _Anchor | None:
        boot_id = current_boot_id()
        if boot_id is None:
            return None
        row = connection.execute(_ANCHORS.where(tables.clock_anchors.c.boot_id == boot_id)).one_or_none()
        if row is None or row.boot_micros * _MICROSECOND > self._boot():
            return None
        self._anchor = _Anchor(row.boot_micros * _MICROSECOND, row.steady_at)
        return self._anchor

    def _boot(self) -> timedelta:
        return timedelta(seconds=self.boot())

    def look(self, connection: Connection) -> None:
        """Ties this machine's boot clock to steady time, and notes where the wall clock was set since the last look.

        In a write transaction, at each start and with each heartbeat.
        """
        boot_id = current_boot_id()
        if boot_id is None:
            return
        mine = tables.clock_anchors.c.boot_id == boot_id
        row = connection.execute(_ANCHORS.where(mine).with_for_update()).one_or_none()
        before = self._boot()
        wall = self.wall(connection)
        boot = self._boot()
        if boot - before > TOLERANCE:
            # The process stood still, or the database did: the two readings are not of one moment.
            return
        if row is None or row.boot_micros * _MICROSECOND > boot:
            self._make_anchor(connection, boot_id, boot, wall)
            return
        steady_at = row.steady_at + (boot - row.boot_micros * _MICROSECOND)
        values: dict[str, Any] = {"seen_steady_at": steady_at, "seen_wall_at": wall}
        step = (wall - row.seen_wall_at) - (steady_at - row.seen_steady_at)
        if abs(step) > LARGE_STEP:
            logger.warning("the clock was set", extra={"seconds": round(step.total_seconds())})
            values |= {"stepped_at": wall, "stepped_micros": step // _MICROSECOND}
        connection.execute(update(tables.clock_anchors).where(mine).values(**values))

    def _make_anchor(self, connection: Connection, boot_id: str, boot: timedelta, wall: datetime) -> None:
        last = connection.execute(_LATEST).one_or_none()
        steady_at = wall if last is None else _carried_on(last, wall)
        gone = tables.clock_anchors.c.seen_steady_at < steady_at - ANCHOR_KEPT
        connection.execute(
            delete(tables.clock_anchors).where(gone | (tables.clock_anchors.c.boot_id == boot_id))
        )
        row = {
            "boot_id": boot_id,
            "boot_micros": boot // _MICROSECOND,
            "steady_at": steady_at,
            "seen_steady_at": steady_at,
            "seen_wall_at": wall,
        }
        # Another process of this machine may have been first.
        insert_or_ignore(connection, tables.clock_anchors, row)


class ClocksOfCopy(Clocks):
    """Of a backup, which is read at any later time: the clocks are as far apart as its last heartbeat saw them."""

    def _measure(self, connection: Connection, wall: datetime) -> timedelta:  # noqa: ARG002
        last = connection.execute(_LATEST).one_or_none()
        return timedelta() if last is None else last.seen_steady_at - last.seen_wall_at


def utc_now() -> datetime:
    return datetime.now(UTC)


def _read_wall_clock(connection: Connection) -> datetime:
    if connection.dialect.name == "sqlite":
        return utc_now()
    found: datetime = connection.execute(_SERVER_CLOCK).scalar_one()
    return found.astimezone(UTC)


def last_step(connection: Connection) -> Step | None:
    """The last time that the wall clock was set by more than a minute, seen by any machine."""
    seen = _LATEST.where(tables.clock_anchors.c.stepped_at.is_not(None))
    row = connection.execute(seen).one_or_none()
    return None if row is None else Step(row.stepped_at, row.stepped_micros * _MICROSECOND)


def _carried_on(last: Row[Any], wall: datetime) -> datetime:
    """Steady time at `wall`, after `last` was seen: it never goes back."""
    carried: datetime = last.seen_steady_at + max(wall - last.seen_wall_at, timedelta())
    return carried


def has_boot_clock() -> bool:
    return current_boot_id() is not None


@cache
def current_boot_id() -> str | None:
    """None where there is no boot clock that all processes share: then steady time is the wall clock's."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
