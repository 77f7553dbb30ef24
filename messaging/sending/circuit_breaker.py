"""Circuit breaker for the provider: after a lost answer only one single-message POST per backoff step is allowed.

So an outage cannot turn a whole queue into messages of unknown outcome. The first answer closes the breaker again.

The row is in steady time; callers speak of the wall clock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from messaging.storage.clocks import by_wall, steady
from utils.backoff import backoff

NAME = "provider"
FIRST_STEP = timedelta(seconds=5)
LONGEST_STEP = timedelta(minutes=5)
# A Retry-After of AT is obeyed up to this: more is taken for an error of AT.
LONGEST_BREAK = timedelta(hours=1)
# AT answers within two seconds even on heavy traffic (docs/africastalking.md, 2). A POST that waits this long for its
# answer half-opens the breaker: the next POSTs risk one message each.
SLOW = timedelta(seconds=10)

# Every answer closes the breaker. Written that often, its row would be what all workers wait for.
ANSWERED_PRECISION = timedelta(seconds=1)

logger = logging.getLogger(__name__)
_CIRCUIT = select(tables.circuit_breakers).where(tables.circuit_breakers.c.name == NAME)
# OPEN is said though `posting` implies it: SQLite takes the partial index only for its own words.
_OLDEST_POST = select(func.min(tables.attempts.c.posting_at)).where(
    tables.OPEN, tables.attempts.c.state == "posting", tables.attempts.c.is_trigger.is_(False)
)


@dataclass(frozen=True, slots=True)
class Circuit:
    """`step` counts the POSTs without an answer since the last answer; 0 means closed."""

    step: int
    next_post_at: datetime
    suspect: bool

    @property
    def is_half_open(self) -> bool:
        return self.step > 0 or self.suspect

    def waits(self, now: datetime) -> bool:
        # Never longer than the longest break: PostgreSQL's clock that was set back must not stop the queue for hours.
        return now < self.next_post_at <= now + LONGEST_BREAK


def current(connection: Connection, now: datetime) -> Circuit:
    """For a claim. The row is locked where the breaker is not closed: then one worker takes the one POST."""
    circuit = _read(connection, connection.execute(_CIRCUIT).one_or_none(), now)
    return circuit if circuit is not None and not circuit.is_half_open else _locked(connection, now)


def _locked(connection: Connection, now: datetime) -> Circuit:
    row = _row(connection, steady(connection, now))
    return _read(connection, row, now) or Circuit(
        row.step, by_wall(connection, row.next_post_at), suspect=False
    )


def _read(connection: Connection, row: Row[Any] | None, now: datetime) -> Circuit | None:
    if row is None:
        return None
    oldest = connection.execute(_OLDEST_POST).scalar()
    answered_at = by_wall(connection, row.answered_at)
    suspect = oldest is not None and oldest < now - SLOW and answered_at < oldest
    return Circuit(row.step, by_wall(connection, row.next_post_at), suspect)


def is_half_open(connection: Connection, now: datetime) -> bool:
    """At the moment of posting: whether an answer was lost, or AT asked for a break, since the claim."""
    row = connection.execute(_CIRCUIT).one_or_none()
    return row is not None and (
        row.step > 0 or Circuit(row.step, by_wall(connection, row.next_post_at), suspect=False).waits(now)
    )


def take_turn(connection: Connection, circuit: Circuit, now: datetime) -> None:
    """The one POST of this backoff step is being claimed; the next one waits a step."""
    if circuit.step:
        next_post_at = steady(connection, now) + backoff(circuit.step, FIRST_STEP, LONGEST_STEP)
        _write(connection, next_post_at=next_post_at)


def answered(connection: Connection, now: datetime) -> None:
    """AT answered, whatever it said: the breaker closes. A break that AT asked for is kept."""
    now = steady(connection, now)
    known = connection.execute(_CIRCUIT).one_or_none()
    if known is not None and not known.step and timedelta() <= now - known.answered_at < ANSWERED_PRECISION:
        return
    row = _row(connection, now)
    _write(connection, step=0, answered_at=now, next_post_at=now if row.step else row.next_post_at)


def half_open(connection: Connection, now: datetime) -> None:
    """Allows one single-message POST at once; its answer closes the breaker."""
    now = steady(connection, now)
    row = _row(connection, now)
    if not row.step:
        _write(connection, step=1, opened_at=now, next_post_at=now)


def no_answer(
    connection: Connection, posting_at: datetime, now: datetime, asked_wait: timedelta = timedelta()
) -> None:
    """An answer was lost, or AT could not be reached. `asked_wait`: the `Retry-After` of a 5xx.

    POSTs that were already on their way when the breaker opened say nothing new, and they do not shorten a break
    that AT asked for meanwhile.
    """
    posting_at, now = steady(connection, posting_at), steady(connection, now)
    row = _row(connection, now)
    if row.step and posting_at < row.opened_at:
        return
    step = row.step + 1
    until = max(now + max(backoff(step, FIRST_STEP, LONGEST_STEP), asked_wait), row.next_post_at)
    _write(connection, step=step, opened_at=now, next_post_at=min(until, now + LONGEST_BREAK))
    if step > 1:
        logger.error("the provider does not answer", extra={"posts_without_answer": step})


def hold_until(connection: Connection, until: datetime, now: datetime) -> None:
    """429: AT answers, and asks for a break. Of two, the longer one counts."""
    until, now = steady(connection, until), steady(connection, now)
    row = _row(connection, now)
    until = until if row.step else max(until, row.next_post_at)
    _write(connection, step=0, answered_at=now, next_post_at=min(until, now + LONGEST_BREAK))


def _row(connection: Connection, now: datetime) -> Row[Any]:
    row = connection.execute(_CIRCUIT.with_for_update()).one_or_none()
    if row is None:
        times = {"next_post_at": now, "opened_at": now, "answered_at": now}
        insert_or_ignore(connection, tables.circuit_breakers, {"name": NAME, "step": 0, **times})
        row = connection.execute(_CIRCUIT.with_for_update()).one()
    return row


def _write(connection: Connection, **values: object) -> None:
    connection.execute(
        update(tables.circuit_breakers).where(tables.circuit_breakers.c.name == NAME).values(**values)
    )
