"""How far a batch has come, as every skin shows it, in the shape of `GET /v1/batches/{id}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, exists, func, select

from messaging import statuses
from messaging.messages.accept import MOST_URGENT
from messaging.messages.queue import BATCH_PRIORITY
from messaging.messages.warnings import read_stored
from messaging.storage import tables
from messaging.storage.database import Database
from utils.errors import NotFound
from utils.json_shapes import LARGEST_ID, booked_money, rfc3339

# All of its columns stand in ix_messages_batch: a million rows are read from the index alone.
_SUMS = (
    select(
        tables.messages.c.status,
        tables.messages.c.cost_currency,
        func.count().label("messages"),
        func.sum(tables.messages.c.cost_micros).label("cost_micros"),
        func.sum(tables.messages.c.parts).label("parts"),
    )
    .group_by(tables.messages.c.status, tables.messages.c.cost_currency)
    .order_by(tables.messages.c.status)
)


def get_batch(database: Database, batch_id: int) -> dict[str, Any]:
    """`GET /v1/batches/{id}`. Raises NotFound."""
    with database.read() as connection:
        batch = require_batch(connection, batch_id)
        found = batch_in_json(connection, batch)
        waiting = None if batch.status != "sending" else _waiting(connection, batch, database.now(connection))
    return found if waiting is None else found | {"waiting": waiting.in_json()}


class Waiting(NamedTuple):
    """All that is left waits for a clock, or for a person (`until` is None).

    `reason`: `do_not_disturb`, `sending_window`, `held`; None: a time of its own.
    """

    messages: int
    reason: str | None
    until: datetime | None

    def in_json(self) -> dict[str, Any]:
        return {"messages": self.messages, "reason": self.reason, "until": rfc3339(self.until)}


def _waiting(connection: Connection, batch: Row[Any], now: datetime) -> Waiting | None:
    """By the row that is due first, in the order of an index: where even that waits, all do."""
    of_batch = [tables.messages.c.batch_id == batch.id]
    if batch.total > MOST_URGENT:
        of_batch.append(tables.messages.c.priority == BATCH_PRIORITY)
    first = connection.execute(
        select(tables.messages.c.due_at, tables.messages.c.due_by_wall, tables.messages.c.reason)
        .where(tables.messages.c.status == statuses.QUEUED, *of_batch)
        .order_by(tables.messages.c.due_at)
        .limit(1)
    ).one_or_none()
    if first is not None and (not first.due_by_wall or first.due_at <= now):
        return None
    is_leaving = select(exists().where(tables.messages.c.status == statuses.SENDING, *of_batch))
    if connection.execute(is_leaving).scalar_one():
        return None
    left = _open_messages(connection, batch.id)
    if first is None:
        return Waiting(left, statuses.HELD, None) if left else None
    return Waiting(left, first.reason, first.due_at)


def require_batch(connection: Connection, batch_id: int, *, lock: bool = False) -> Row[Any]:
    """The row, with `lock` held until the transaction ends. Raises NotFound."""
    found = None
    if 0 < batch_id <= LARGEST_ID:
        statement = select(tables.batches).where(tables.batches.c.id == batch_id)
        found = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    if found is None:
        raise NotFound(f"There is no batch {batch_id}")
    return found


def batch_in_json(connection: Connection, batch: Row[Any]) -> dict[str, Any]:
    """`cost` is null before anything was billed, and an entry of `costs` each where there are several currencies."""
    # Of one that is still being received all are queued: no reason to count a million rows at each look.
    is_received = batch.status != "receiving"
    sums = (
        connection.execute(_SUMS.where(tables.messages.c.batch_id == batch.id)).all() if is_received else []
    )
    counts: dict[str, int] = {} if is_received or not batch.total else {statuses.QUEUED: batch.total}
    for row in sums:
        counts[row.status] = counts.get(row.status, 0) + row.messages
    costs = _costs(sums)
    has_limit = batch.max_cost_micros is not None
    shape = {
        "id": batch.id,
        "name": batch.name,
        "status": batch.status,
        "reason": batch.reason,
        "total": batch.total,
        "refused": batch.refused,
        "duplicates": batch.duplicates,
        **read_stored(batch.warnings),
        "counts": counts,
        "cost": costs[0] if len(costs) == 1 else None,
        "costs": costs if len(costs) > 1 else None,
        "parts": int(sum(row.parts or 0 for row in sums)),
        "progress": _progress(batch, counts),
        "max_cost": booked_money(batch.max_cost_micros, batch.max_cost_currency) if has_limit else None,
        "send_at": rfc3339(batch.send_at),
        "expires_at": rfc3339(batch.expires_at),
        "created_at": rfc3339(batch.created_at),
        "finished_at": rfc3339(batch.finished_at),
    }
    return {name: value for name, value in shape.items() if value is not None or name not in _OPTIONAL}


_OPTIONAL = frozenset({"reason", "costs", "max_cost", "send_at", "expires_at"})


def _costs(sums: Any) -> list[dict[str, str | None]]:
    """What AT billed, by currency: never added across."""
    totals: dict[str | None, int] = {}
    for row in sums:
        if row.cost_micros:
            totals[row.cost_currency] = totals.get(row.cost_currency, 0) + int(row.cost_micros)
    return amounts(totals)


def amounts(micros_by_currency: Mapping[str | None, int]) -> list[dict[str, str | None]]:
    """Money in the API's shape, an entry for each currency of which there is any."""
    totals = sorted(micros_by_currency.items(), key=str)
    return [booked_money(micros, currency) for currency, micros in totals if micros]


def _progress(batch: Row[Any], counts: dict[str, int]) -> float:
    """The share that is no longer to be sent, being sent or held; a batch that is still being received has none."""
    if batch.status == "receiving":
        return 0.0
    total = sum(counts.values())
    open_ones = sum(counts.get(status, 0) for status in statuses.UNFINISHED)
    # Rounded down: 1 means that nothing is left.
    return (total - open_ones) * 10_000 // total / 10_000 if total else 1.0


@dataclass(frozen=True, slots=True)
class Speed:
    """`settled` of `total` are neither to be sent, being sent nor held.

    `per_second`: since the watch began; None where it is not known yet.
    """

    status: str
    reason: str | None
    total: int
    settled: int
    per_second: float | None
    seconds_left: float | None
    waiting: Waiting | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("finished", "cancelled") and self.settled >= self.total


def watch(database: Database, batch_id: int) -> Iterator[Speed]:
    """For a progress bar: each `next()` looks again, the caller waits between. Ends after a Speed that is over.

    Raises NotFound at the first look.
    """
    began_at, settled_at_start = monotonic(), None
    while True:
        with database.read() as connection:
            batch = require_batch(connection, batch_id)
            # Never below 0: rows may have come in between the two looks.
            settled = max(0, batch.total - _open_messages(connection, batch_id))
            is_sending = batch.status == "sending"
            waiting = _waiting(connection, batch, database.now(connection)) if is_sending else None
        if settled_at_start is None:
            settled_at_start = settled
        speed = _speed(batch, settled, settled - settled_at_start, monotonic() - began_at, waiting)
        yield speed
        if speed.is_over:
            return


def _speed(batch: Row[Any], settled: int, since_start: int, seconds: float, waiting: Waiting | None) -> Speed:
    per_second = since_start / seconds if since_start > 0 and seconds > 0 else None
    left = None if per_second is None else (batch.total - settled) / per_second
    return Speed(batch.status, batch.reason, batch.total, settled, per_second, left, waiting)


def _open_messages(connection: Connection, batch_id: int) -> int:
    statement = select(func.count()).where(
        tables.messages.c.batch_id == batch_id, tables.messages.c.status.in_(statuses.UNFINISHED)
    )
    return connection.execute(statement).scalar_one()
