"""How many sends each key, operator and address may ask for in a minute, counted in the database, so for all processes.

A process takes permits in blocks, each a part of what is left of the minute, and hands them out from memory: an
allowed call writes nothing but where a block has come to its end. The blocks shrink as the minute fills, so that
little is left unused in a process that nobody calls. Whoever is refused costs neither a read nor a write until the
minute is over.

A minute is one of the clock, not the last sixty seconds. Permits end with it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, select, update

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from utils.deadlines import boot_clock
from utils.errors import ServiceError

MINUTE = timedelta(minutes=1)
# An address is personal data: nobody needs to know it any more.
FORGOTTEN_AFTER = timedelta(hours=1)
ADDRESS = "address:"
# Of what is left, a block is one part of so many.
PARTS = 16

logger = logging.getLogger(__name__)


class RateLimited(ServiceError):
    code = "rate_limited"

    def __init__(self, per_minute: int, seconds: float, who: str) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        place = " from this address" if who.startswith(ADDRESS) else ""
        super().__init__(
            f"More than {per_minute} sends were asked for{place} in this minute:"
            f" wait {self.retry_after} seconds"
        )


class Block(NamedTuple):
    """`ends_in`: how long its permits are good for, or how long there will be none."""

    permits: int
    ends_in: timedelta


@dataclass(slots=True)
class _Permits:
    """Of one key, operator or address, in one process. `end`: a moment of the clock of the throttle."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    left: int = 0
    end: float = -math.inf
    is_refused: bool = False

    @contextmanager
    def held(self) -> Iterator[_Permits]:
        with self.lock:
            yield self


class SendThrottle:
    """Of one process; its threads share it. `per_minute` 0: no limit."""

    def __init__(self, database: Database, per_minute: int, clock: Callable[[], float] = boot_clock) -> None:
        self._database = database
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._permits: dict[str, _Permits] = {}
        self._next_look = -math.inf

    def count(self, *callers: str) -> None:
        """One call of all of these at once, whatever it asks for: the key and the address. Raises RateLimited.

        Refused to one of them, it is counted for none.
        """
        if not self._per_minute:
            return
        # In one order, so that two threads cannot wait for each other.
        names = sorted(set(callers))
        with ExitStack() as held:
            # Held while a block is taken: the threads of one caller would else each take one.
            mine = {who: held.enter_context(self._permits_of(who).held()) for who in names}
            for who, permits in mine.items():
                self._provide(who, permits)
                if permits.is_refused:
                    raise RateLimited(self._per_minute, permits.end - self._clock(), who)
            for permits in mine.values():
                permits.left -= 1

    def _permits_of(self, who: str) -> _Permits:
        with self._lock:
            known = self._permits.get(who)
            if known is None:
                self._forget_old()
                known = self._permits[who] = _Permits()
            return known

    def _forget_old(self) -> None:
        """Once a minute, as there may be any number of addresses.

        One that a thread is just taking a block for may be among them: that block is lost, as others are.
        """
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + MINUTE.total_seconds()
        self._permits = {who: permits for who, permits in self._permits.items() if permits.end > now}

    def _provide(self, who: str, mine: _Permits) -> None:
        # Read first: the block is asked for later, so it never outlives its minute.
        now = self._clock()
        if now < mine.end and (mine.left or mine.is_refused):
            return
        block = self._take_block(who)
        mine.left, mine.end = block.permits, now + block.ends_in.total_seconds()
        mine.is_refused = not block.permits
        if mine.is_refused:
            logger.warning("more sends than a minute may have", extra={"caller": who})

    def _take_block(self, who: str) -> Block:
        with self._database.write() as connection:
            locked = lock(connection, who)
            now = steady(connection, wall_clock(connection))
            return take(connection, locked, self._per_minute, now)


def lock(connection: Connection, who: str) -> Row[Any]:
    """Until the transaction ends nobody else takes permits of this one. The time is to be read behind it."""
    mine = select(tables.send_buckets).where(tables.send_buckets.c.who == who).with_for_update()
    found = connection.execute(mine).one_or_none()
    if found is None:
        new = {"who": who, "minute_at": datetime.fromtimestamp(0, UTC), "taken": 0}
        insert_or_ignore(connection, tables.send_buckets, new)
        found = connection.execute(mine).one()
    return found


def take(connection: Connection, locked: Row[Any], per_minute: int, now: datetime) -> Block:
    minute_at = now.replace(second=0, microsecond=0)
    # PostgreSQL's clock may go back a little: a minute that has begun is not begun again.
    if minute_at < locked.minute_at <= minute_at + MINUTE:
        minute_at = locked.minute_at
    taken = locked.taken if locked.minute_at == minute_at else 0
    permits = math.ceil(max(per_minute - taken, 0) / PARTS)
    if permits:
        values = {"minute_at": minute_at, "taken": taken + permits}
        mine = tables.send_buckets.c.who == locked.who
        connection.execute(update(tables.send_buckets).where(mine).values(**values))
    return Block(permits, minute_at + MINUTE - now)


def forget_old(connection: Connection, now: datetime) -> None:
    """`now`: in steady time. A row in which somebody is just counting is left to the next sweep.

    One that is far ahead comes from a clock that was wrong.
    """
    who, minute_at = tables.send_buckets.c.who, tables.send_buckets.c.minute_at
    is_old = (minute_at < now - FORGOTTEN_AFTER) | (minute_at > now + FORGOTTEN_AFTER)
    unlocked = select(who).where(is_old).with_for_update(skip_locked=True)
    connection.execute(delete(tables.send_buckets).where(who.in_(unlocked)))
