"""Account-wide token buckets in the database: one pace over all workers on all machines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from messaging.models import rate_buckets
from messaging.upsert import insert_or_ignore

REQUESTS = "requests"
MESSAGES = "messages"
MICRO = 1_000_000
# What a bucket holds after a rest: a whole second's worth would let two seconds' worth leave within one.
BURST_SECONDS = 0.1
URGENT_DEBT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    requests_per_second: float
    messages_per_second: float


def take(connection: Connection, pace: Pace, message_count: int, now: datetime, *, urgent: bool) -> float:
    """Seconds to wait before one POST of `message_count` messages may leave; 0 means the tokens are taken.

    A bucket holds a tenth of a second's worth. A POST larger than that waits for a full one and leaves a debt.
    An urgent POST (a single text, a reply) does not wait behind bulk: it may go into one second of debt.
    """
    wanted = {
        REQUESTS: (pace.requests_per_second, 1),
        MESSAGES: (pace.messages_per_second, message_count),
    }
    buckets = {name: _refilled(connection, name, wanted[name][0], now) for name in sorted(wanted)}
    wait = max(_seconds_short(buckets[name], rate, count, urgent) for name, (rate, count) in wanted.items())
    if wait > 0:
        return wait
    for name, (_rate, count) in wanted.items():
        _write(connection, name, buckets[name] - count * MICRO, now)
    return 0.0


def _write(connection: Connection, name: str, tokens_micros: int, now: datetime) -> None:
    values = {"tokens_micros": tokens_micros, "refilled_at": now}
    connection.execute(update(rate_buckets).where(rate_buckets.c.name == name).values(**values))


def _refilled(connection: Connection, name: str, rate: float, now: datetime) -> int:
    statement = (
        select(rate_buckets.c.tokens_micros, rate_buckets.c.refilled_at)
        .where(rate_buckets.c.name == name)
        .with_for_update()
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        full = {"name": name, "tokens_micros": int(_capacity(rate) * MICRO), "refilled_at": now}
        insert_or_ignore(connection, rate_buckets, full)
        row = connection.execute(statement).one()
    if row.refilled_at > now:
        # The clock was stepped back: count from here, or nothing would be sent until it has caught up.
        _write(connection, name, row.tokens_micros, now)
    elapsed = max(now - row.refilled_at, timedelta(0))
    refill = int(min(elapsed.total_seconds(), 3600.0) * rate * MICRO)
    return int(min(row.tokens_micros + refill, _capacity(rate) * MICRO))


def _capacity(rate: float) -> float:
    return max(rate * BURST_SECONDS, 1.0)


def _seconds_short(tokens_micros: int, rate: float, count: int, urgent: bool) -> float:
    needed = min(count, _capacity(rate))
    if urgent:
        needed -= max(rate * URGENT_DEBT_SECONDS, 1.0)
    return max(needed - tokens_micros / MICRO, 0.0) / rate
