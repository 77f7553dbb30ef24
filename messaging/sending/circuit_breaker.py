"""How wide the road to the provider is. Lost answers narrow it, so that an outage cannot turn a queue into unknowns."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from utils.backoff import backoff

NAME = "provider"
FIRST_STEP = timedelta(seconds=5)
LONGEST_STEP = timedelta(minutes=5)
# What AT asks for itself is believed, but for a slip of its clock or of a digit.
LONGEST_BREAK = timedelta(hours=1)
# AT answers within two seconds even on heavy traffic (docs/africastalking.md, 2); a POST without answer for this
# long means that the next ones should risk one message each.
SLOW = timedelta(seconds=10)

# Every answer says that the road is open; written that often it would be the row all workers wait for.
ANSWERED_PRECISION = timedelta(seconds=1)

logger = logging.getLogger(__name__)
_LANE = select(tables.lanes).where(tables.lanes.c.name == NAME)
# OPEN is said though `posting` implies it: SQLite takes the partial index only for its own words.
_OLDEST_POST = select(func.min(tables.attempts.c.posting_at)).where(
    tables.OPEN, tables.attempts.c.state == "posting", tables.attempts.c.is_trigger.is_(False)
)


@dataclass(frozen=True, slots=True)
class Lane:
    """`step` counts the POSTs without an answer since the last answer; 0 is an open road."""

    step: int
    next_post_at: datetime
    suspect: bool

    @property
    def narrow(self) -> bool:
        return self.step > 0 or self.suspect

    def waits(self, now: datetime) -> bool:
        # Never longer than the longest break: a clock that was stepped back must not stop the queue for hours.
        return now < self.next_post_at <= now + LONGEST_BREAK


def current(connection: Connection, now: datetime) -> Lane:
    """For a claim. Locked where the road is not open: then its turn is for one worker."""
    lane = _read(connection, connection.execute(_LANE).one_or_none(), now)
    return lane if lane is not None and not lane.narrow else _locked(connection, now)


def _locked(connection: Connection, now: datetime) -> Lane:
    row = _row(connection, now)
    return _read(connection, row, now) or Lane(row.step, row.next_post_at, suspect=False)


def _read(connection: Connection, row: Row[Any] | None, now: datetime) -> Lane | None:
    if row is None:
        return None
    oldest = connection.execute(_OLDEST_POST).scalar()
    suspect = oldest is not None and oldest < now - SLOW and row.answered_at < oldest
    return Lane(row.step, row.next_post_at, suspect)


def is_narrow(connection: Connection, now: datetime) -> bool:
    """At the moment of posting: whether an answer was lost, or AT asked for a break, since the claim."""
    row = connection.execute(_LANE).one_or_none()
    return row is not None and (row.step > 0 or Lane(row.step, row.next_post_at, False).waits(now))


def take_narrow_turn(connection: Connection, lane: Lane, now: datetime) -> None:
    """The one POST of this backoff step is being claimed; the next one waits a step."""
    if lane.step:
        _write(connection, next_post_at=now + backoff(lane.step, FIRST_STEP, LONGEST_STEP))


def answered(connection: Connection, now: datetime) -> None:
    """AT answered, whatever it said: the road is open. A break that AT asked for is kept."""
    known = connection.execute(_LANE).one_or_none()
    if known is not None and not known.step and timedelta() <= now - known.answered_at < ANSWERED_PRECISION:
        return
    row = _row(connection, now)
    _write(connection, step=0, answered_at=now, next_post_at=now if row.step else row.next_post_at)


def narrow(connection: Connection, now: datetime) -> None:
    """The next POST is one message, at once; its answer opens the road."""
    row = _row(connection, now)
    if not row.step:
        _write(connection, step=1, narrowed_at=now, next_post_at=now)


def no_answer(
    connection: Connection, posting_at: datetime, now: datetime, asked_wait: timedelta = timedelta()
) -> None:
    """An answer was lost, or AT could not be reached. `asked_wait`: the `Retry-After` of a 5xx.

    POSTs that were already on their way when the road was narrowed say nothing new, and a break that AT asked
    for meanwhile is not cut short by them.
    """
    row = _row(connection, now)
    if row.step and posting_at < row.narrowed_at:
        return
    step = row.step + 1
    until = max(now + max(backoff(step, FIRST_STEP, LONGEST_STEP), asked_wait), row.next_post_at)
    _write(connection, step=step, narrowed_at=now, next_post_at=min(until, now + LONGEST_BREAK))
    if step > 1:
        logger.error("the provider does not answer", extra={"posts_without_answer": step})


def hold_until(connection: Connection, until: datetime, now: datetime) -> None:
    """429: AT answers, and asks for a break. Of two, the longer one counts."""
    row = _row(connection, now)
    until = until if row.step else max(until, row.next_post_at)
    _write(connection, step=0, answered_at=now, next_post_at=min(until, now + LONGEST_BREAK))


def _row(connection: Connection, now: datetime) -> Row[Any]:
    row = connection.execute(_LANE.with_for_update()).one_or_none()
    if row is None:
        times = {"next_post_at": now, "narrowed_at": now, "answered_at": now}
        insert_or_ignore(connection, tables.lanes, {"name": NAME, "step": 0, **times})
        row = connection.execute(_LANE.with_for_update()).one()
    return row


def _write(connection: Connection, **values: object) -> None:
    connection.execute(update(tables.lanes).where(tables.lanes.c.name == NAME).values(**values))
