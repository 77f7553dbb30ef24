"""Account-wide token buckets in the database: one rate limit for all workers on all machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, bindparam, case, select, update

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from messaging.storage.clocks import steady

REQUESTS = "requests"
MESSAGES = "messages"
MICRO = 1_000_000
# What a bucket holds after a rest: a whole second's worth would let two seconds' worth leave within one.
BURST_SECONDS = 0.1
URGENT_DEBT_SECONDS = 1.0


Buckets = Mapping[str, Row[Any]]


@dataclass(frozen=True, slots=True)
class Rates:
    requests_per_second: float
    messages_per_second: float


def lock(connection: Connection) -> Buckets:
    """Until the transaction ends nobody else takes tokens, on any machine."""
    found = {row.name: row for row in connection.execute(_FIND)}
    for name in sorted({MESSAGES, REQUESTS} - found.keys()):
        # Filled since long ago: full.
        full = {"name": name, "tokens_micros": 0, "refilled_at": datetime.fromtimestamp(0, UTC)}
        insert_or_ignore(connection, tables.rate_buckets, full)
        found = {row.name: row for row in connection.execute(_FIND)}
    return found


def take(
    connection: Connection,
    locked: Buckets,
    rates: Rates,
    posts: Sequence[tuple[int, bool]],
    now: datetime,
) -> list[float]:
    """Seconds to wait before each POST, (message_count, urgent), may leave; 0 means its tokens are taken.

    A bucket holds a tenth of a second's worth. A POST larger than that waits for a full one and leaves a debt.
    An urgent POST (a single text, a reply) does not wait behind bulk: it may go into one second of debt.
    """
    now = steady(connection, now)
    per_second = {REQUESTS: rates.requests_per_second, MESSAGES: rates.messages_per_second}
    buckets = _refilled(connection, locked, per_second, now)
    waits = [_take(buckets, per_second, {REQUESTS: 1, MESSAGES: count}, urgent) for count, urgent in posts]
    if not all(waits):
        _write(connection, buckets, now)
    return waits


def _take(
    buckets: dict[str, int], per_second: dict[str, float], wanted: dict[str, int], urgent: bool
) -> float:
    wait = max(_seconds_short(buckets[name], per_second[name], wanted[name], urgent) for name in wanted)
    if wait > 0:
        return wait
    for name, count in wanted.items():
        buckets[name] -= count * MICRO
    return 0.0


_FIND = (
    select(tables.rate_buckets)
    .where(tables.rate_buckets.c.name.in_((MESSAGES, REQUESTS)))
    .order_by(tables.rate_buckets.c.name)
    .with_for_update()
)
# One statement for both: they are written with every POST.
_SET = (
    update(tables.rate_buckets)
    .where(tables.rate_buckets.c.name.in_((MESSAGES, REQUESTS)))
    .values(
        tokens_micros=case(
            (tables.rate_buckets.c.name == MESSAGES, bindparam(MESSAGES, type_=BigInteger())),
            else_=bindparam(REQUESTS, type_=BigInteger()),
        ),
        refilled_at=bindparam("new_refilled_at"),
    )
)


def _write(connection: Connection, buckets: dict[str, int], now: datetime) -> None:
    """All buckets at once; they are locked."""
    connection.execute(_SET, {**buckets, "new_refilled_at": now})


def _refilled(
    connection: Connection, locked: Buckets, per_second: dict[str, float], now: datetime
) -> dict[str, int]:
    refilled = {name: _refill(locked[name], rate, now) for name, rate in per_second.items()}
    # PostgreSQL's clock that was set back: count from here, or nothing would be sent until it has caught up.
    if any(row.refilled_at > now for row in locked.values()):
        _write(connection, refilled, now)
    return refilled


def _refill(row: Row[Any], rate: float, now: datetime) -> int:
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
