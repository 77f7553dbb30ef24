"""How far a batch has come, as every skin shows it, in the shape of `GET /v1/batches/{id}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from sqlalchemy import Connection, Row, func, select

from messaging import statuses
from messaging.batch_statuses import FINISHED, NO_VALID_ROWS, RECEIVING
from messaging.batches import waiting
from messaging.messages.warnings import read_stored
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils import reasons
from utils.errors import NotFound
from utils.json_shapes import LARGEST_ID, booked_money, decode_cursor, page, rfc3339

# Rows that a page of batches may count, which takes a fifth of a second: the newest batches first.
MOST_COUNTED = 1_000_000
# All of its columns stand in ix_messages_batch: a million rows are read from the index alone.
_SUMS = (
    select(
        tables.messages.c.batch_id,
        tables.messages.c.status,
        tables.messages.c.cost_currency,
        func.count().label("messages"),
        func.sum(tables.messages.c.cost_micros).label("cost_micros"),
        func.sum(tables.messages.c.parts).label("parts"),
    )
    .group_by(tables.messages.c.batch_id, tables.messages.c.status, tables.messages.c.cost_currency)
    .order_by(tables.messages.c.batch_id, tables.messages.c.status)
)


def list_batches(database: Database, cursor: str | None = None, limit: int = 50) -> dict[str, Any]:
    """A page of `GET /v1/batches`, newest first. Raises InvalidInput for a bad cursor.

    `counts`, costs, parts and `progress` are null for those behind the first million messages of a page.
    """
    before = decode_cursor(cursor)
    statement = select(tables.batches).order_by(tables.batches.c.id.desc()).limit(limit + 1)
    if before is not None:
        statement = statement.where(tables.batches.c.id < before)
    with database.read() as connection:
        rows = connection.execute(statement).all()
        counted = _countable(rows[:limit])
        wanted = _SUMS.where(one_of(tables.messages.c.batch_id, "ids"))
        sums: dict[int, list[Row[Any]]] = {batch_id: [] for batch_id in counted}
        for row in connection.execute(wanted, {"ids": counted}) if counted else ():
            sums[row.batch_id].append(row)
    return page([_in_list(row, sums) for row in rows], limit)


def _countable(batches: Sequence[Row[Any]]) -> list[int]:
    counted, rows = [], 0
    for batch in batches:
        # All of its rows are queued: `_shape` knows that without counting.
        if batch.status == RECEIVING:
            continue
        rows += batch.total
        if rows > MOST_COUNTED:
            break
        counted.append(batch.id)
    return counted


def _in_list(batch: Row[Any], sums: Mapping[int, Sequence[Row[Any]]]) -> dict[str, Any]:
    shape = _shape(batch, sums.get(batch.id, ()))
    is_counted = batch.status == RECEIVING or batch.id in sums
    return shape if is_counted else shape | dict.fromkeys(_COUNTED)


_COUNTED = ("counts", "cost", "parts", "progress")


def get_batch(database: Database, batch_id: int) -> dict[str, Any]:
    """`GET /v1/batches/{id}`. Raises NotFound."""
    with database.read() as connection:
        batch = require_batch(connection, batch_id)
        found = batch_in_json(connection, batch)
        waits = waiting.waiting(connection, batch, wall_clock(connection))
    return found | {"waiting": waits}


def reasons_of(database: Database, batch_id: int) -> list[dict[str, Any]]:
    """Why messages of a batch did not arrive or are not known to, the most frequent first. Raises NotFound.

    It reads the row of each, which the other figures of a batch do not.
    """
    messages = tables.messages.c
    chosen = messages.status, messages.reason
    mine = (
        messages.batch_id == batch_id,
        messages.status.in_(statuses.NOT_REACHED),
        messages.reason.is_not(None),
    )
    statement = select(*chosen, func.count().label("messages")).where(*mine).group_by(*chosen)
    with database.read() as connection:
        require_batch(connection, batch_id)
        rows = sorted(
            connection.execute(statement).all(), key=lambda row: (-row.messages, row.status, row.reason)
        )
    return [row._asdict() | reasons.in_json(row.reason, row.status) for row in rows]


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
    # Of one that is still being received all are queued: no reason to count a million rows at each look.
    is_received = batch.status != RECEIVING
    sums = (
        connection.execute(_SUMS.where(tables.messages.c.batch_id == batch.id)).all() if is_received else []
    )
    return _shape(batch, sums)


def _shape(batch: Row[Any], sums: Sequence[Row[Any]]) -> dict[str, Any]:
    """`cost` is null before anything was billed, and an entry of `costs` each where there are several currencies."""
    is_received = batch.status != RECEIVING
    sums = sums if is_received else ()
    counts: dict[str, int] = {} if is_received or not batch.total else {statuses.QUEUED: batch.total}
    for row in sums:
        counts[row.status] = counts.get(row.status, 0) + row.messages
    costs = _costs(sums)
    has_limit = batch.max_cost_micros is not None
    shape = {
        "id": batch.id,
        "name": batch.name,
        "status": batch.status,
        "reason": (reason := _reason(batch)),
        **reasons.in_json(reason, detail=batch.detail),
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
        "created_by": batch.created_by,
        "request_id": batch.request_id,
        "finished_at": rfc3339(batch.finished_at),
    }
    return {name: value for name, value in shape.items() if value is not None or name not in _OPTIONAL}


def _reason(batch: Row[Any]) -> str | None:
    """One that finished while it was paused keeps why, for a text that may come back: it explains no end."""
    return None if batch.status == FINISHED and batch.reason != NO_VALID_ROWS else batch.reason


_OPTIONAL = frozenset({"reason", "explanation", "remedy", "costs", "max_cost", "send_at", "expires_at"})


def _costs(sums: Any) -> list[dict[str, str | None]]:
    """What AT billed, by currency: never added across."""
    totals: dict[str | None, int] = {}
    for row in sums:
        if row.cost_micros:
            totals[row.cost_currency] = totals.get(row.cost_currency, 0) + int(row.cost_micros)
    return amounts(totals)


def amounts(micros_by_currency: Mapping[str, int] | Mapping[str | None, int]) -> list[dict[str, str | None]]:
    """Money in the API's shape, an entry for each currency of which there is any."""
    totals = sorted(micros_by_currency.items(), key=str)
    return [booked_money(micros, currency) for currency, micros in totals if micros]


def _progress(batch: Row[Any], counts: dict[str, int]) -> float:
    """The share that is no longer to be sent, being sent or held; a batch that is still being received has none."""
    if batch.status == RECEIVING:
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
    # All that is left waits for a clock, a pause or a person.
    is_waiting: bool = False

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
            unfinished = _open_messages(connection, batch_id)
            # Never below 0: rows may have come in between the two looks.
            settled = max(0, batch.total - unfinished)
            is_waiting = waiting.is_waiting(connection, batch, unfinished, wall_clock(connection))
        if settled_at_start is None:
            settled_at_start = settled
        speed = _speed(batch, settled, settled - settled_at_start, monotonic() - began_at, is_waiting)
        yield speed
        if speed.is_over:
            return


def _speed(batch: Row[Any], settled: int, since_start: int, seconds: float, is_waiting: bool) -> Speed:
    per_second = since_start / seconds if since_start > 0 and seconds > 0 else None
    left = None if per_second is None else (batch.total - settled) / per_second
    return Speed(batch.status, _reason(batch), batch.total, settled, per_second, left, is_waiting)


def _open_messages(connection: Connection, batch_id: int) -> int:
    statement = select(func.count()).where(
        tables.messages.c.batch_id == batch_id, tables.messages.c.status.in_(statuses.UNFINISHED)
    )
    return connection.execute(statement).scalar_one()
