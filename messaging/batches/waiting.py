"""What of a batch does not move by itself now: a clock, a pause or a person holds it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, exists, func, or_, select

from messaging import statuses
from messaging.batch_statuses import SCHEDULED, SENDING
from messaging.messages.accept import MOST_URGENT
from messaging.messages.pause_names import ACCOUNT, sender_name
from messaging.messages.queue import BATCH_PRIORITY
from messaging.storage import tables
from utils.json_shapes import rfc3339

_WAITING = (
    select(
        tables.messages.c.status,
        tables.messages.c.reason,
        func.count().label("messages"),
        func.min(tables.messages.c.due_at).label("until"),
    )
    .where(tables.WAITS, tables.messages.c.batch_id == bindparam("batch_id"))
    .where(
        or_(
            tables.messages.c.status == statuses.HELD,
            tables.messages.c.due_at > bindparam("now", type_=tables.messages.c.due_at.type),
        )
    )
    .group_by(tables.messages.c.status, tables.messages.c.reason)
)
# From the index alone, of a million rows too.
_QUEUED = select(func.count()).where(
    tables.messages.c.status == statuses.QUEUED, tables.messages.c.batch_id == bindparam("batch_id")
)
# The account's first: while it is paused, the sender's matters to nobody.
_PAUSES = (
    select(tables.pauses.c.name, tables.pauses.c.reason)
    .where(tables.pauses.c.name.in_((ACCOUNT, bindparam("sender"))))
    .order_by(tables.pauses.c.name)
    .limit(1)
)


def waiting(connection: Connection, batch: Row[Any], now: datetime) -> list[dict[str, Any]]:
    """By reason, the largest first; empty but for a batch that is `sending`. Without reason: a time of its own.

    `pause`: its name, where sending is paused and these would leave now.
    """
    if batch.status != SENDING:
        return []
    found = list(_by_clock_or_person(connection, batch, now))
    pause = _pause(connection, batch)
    if pause is not None:
        queued = connection.execute(_QUEUED, {"batch_id": batch.id}).scalar_one()
        count = queued - sum(one["count"] for one in found if one["until"] is not None)
        if count > 0:
            found.append({"reason": pause.reason, "count": count, "until": None, "pause": pause.name})
    return sorted(found, key=lambda one: -int(one["count"]))


def _by_clock_or_person(connection: Connection, batch: Row[Any], now: datetime) -> Iterator[dict[str, Any]]:
    for row in connection.execute(_WAITING, {"batch_id": batch.id, "now": now}):
        is_held = row.status == statuses.HELD
        yield {
            "reason": row.reason or (statuses.HELD if is_held else None),
            "count": row.messages,
            "until": None if is_held else rfc3339(row.until),
            "pause": None,
        }


def _pause(connection: Connection, batch: Row[Any]) -> Row[Any, Any] | None:
    return connection.execute(_PAUSES, {"sender": sender_name(batch.sender_id)}).one_or_none()


def is_waiting(connection: Connection, batch: Row[Any], unfinished: int, now: datetime) -> bool:
    """Whether all that is left waits. `unfinished`: how many messages that is."""
    if batch.status == SCHEDULED:
        return batch.send_at is not None and batch.send_at > now
    if batch.status != SENDING:
        return False
    # By the row that is due first: where even that waits, all do.
    of_batch = [tables.messages.c.batch_id == batch.id]
    if batch.total > MOST_URGENT:
        of_batch.append(tables.messages.c.priority == BATCH_PRIORITY)
    first = connection.execute(
        select(tables.messages.c.due_at, tables.messages.c.due_by_wall)
        .where(tables.messages.c.status == statuses.QUEUED, *of_batch)
        .order_by(tables.messages.c.due_at)
        .limit(1)
    ).one_or_none()
    is_by_clock = first is not None and first.due_by_wall and first.due_at > now
    if first is not None and not is_by_clock and _pause(connection, batch) is None:
        return False
    is_leaving = select(exists().where(tables.messages.c.status == statuses.SENDING, *of_batch))
    if connection.execute(is_leaving).scalar_one():
        return False
    return first is not None or unfinished > 0
