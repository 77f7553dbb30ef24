"""How fast batches leave at present, from the newest rows of the histories, whose number does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, select

from messaging import statuses
from messaging.batch_statuses import SENDING
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database

WINDOW = timedelta(minutes=1)
# Two thousand look-ups by key, some milliseconds. At a high rate they reach less far back than the window.
NEWEST_EVENTS = 2000
# From fewer seconds nobody can tell a speed: one POST with many recipients would promise the moon.
SHORTEST_SECONDS = 3
BY_PROVIDER = "provider"
_NEWEST = (
    select(*(tables.message_events.c[name] for name in ("message_id", "at", "status", "source")))
    .order_by(tables.message_events.c.id.desc())
    .limit(NEWEST_EVENTS)
    .subquery()
)
_LEFT = (
    select(
        tables.messages.c.batch_id,
        func.count().label("texts"),
        func.min(_NEWEST.c.at).label("first_at"),
    )
    .select_from(_NEWEST.join(tables.messages, tables.messages.c.id == _NEWEST.c.message_id))
    .where(
        _NEWEST.c.at > bindparam("since", type_=tables.message_events.c.at.type),
        _NEWEST.c.source == BY_PROVIDER,
        _NEWEST.c.status.not_in(statuses.UNFINISHED),
        # As a sum it is no key: the few messages are found by their ids, not by walking over the batch.
        one_of(tables.messages.c.batch_id + 0, "ids"),
    )
    .group_by(tables.messages.c.batch_id)
)
# By the index of what waits, of which each entry is looked at: as many as wait for their hour.
_BY_CLOCK = (
    select(tables.messages.c.batch_id, func.count().label("texts"))
    .where(
        tables.WAITS,
        tables.messages.c.status == statuses.QUEUED,
        tables.messages.c.due_at > bindparam("now", type_=tables.messages.c.due_at.type),
        one_of(tables.messages.c.batch_id, "ids"),
    )
    .group_by(tables.messages.c.batch_id)
)


class Pace(NamedTuple):
    """`seconds_left`: of what may leave now; None where all that is left waits for its hour."""

    per_minute: float
    seconds_left: float | None


def paces(database: Database, batches: Sequence[dict[str, Any]]) -> dict[int, Pace]:
    """By id, of batches as `progress` shapes them: only those of which texts left within the last minute."""
    open_ones = {one["id"]: _to_send(one) for one in batches if one["status"] == SENDING and one["counts"]}
    if not open_ones:
        return {}
    with database.read() as connection:
        now = wall_clock(connection)
        ids = {"ids": list(open_ones)}
        left = connection.execute(_LEFT, ids | {"since": now - WINDOW}).all()
        by_clock = connection.execute(_BY_CLOCK, ids | {"now": now}).all() if left else []
    waiting: dict[int, int] = {row.batch_id: row.texts for row in by_clock}
    found = {
        row.batch_id: _pace(
            row.texts, row.first_at, now, open_ones[row.batch_id] - waiting.get(row.batch_id, 0)
        )
        for row in left
    }
    return {batch_id: pace for batch_id, pace in found.items() if pace is not None}


def _to_send(batch: dict[str, Any]) -> int:
    counts: dict[str, int] = batch["counts"]
    return counts.get(statuses.QUEUED, 0) + counts.get(statuses.SENDING, 0)


def _pace(texts: int, first_at: datetime, now: datetime, to_send: int) -> Pace | None:
    seconds = (now - first_at).total_seconds()
    if seconds < SHORTEST_SECONDS:
        return None
    return Pace(texts * 60 / seconds, to_send * seconds / texts if to_send > 0 else None)
