"""Which messages are due: urgent ones first, then each batch in turn, read by index however many rows wait."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
    text,
)

from messaging.batch_statuses import MAY_SEND
from messaging.messages.queue import BATCH_PRIORITY
from messaging.sending import pauses
from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.due_times import IS_DUE, due_now

URGENT_PRIORITIES = (0, 1)

# How many POSTs one claim prepares: enough that texts of their own (one message a POST) do not pay a claim
# each, few enough that a lease never runs out while the last of them waits its turn.
POSTS_PER_CLAIM = 64


class DueRow(NamedTuple):
    """SQLAlchemy's own row looks each attribute up by name, at five times the price."""

    id: int
    recipient: str
    text: str
    sender_id: str | None
    link_id: str | None
    batch_id: int | None
    priority: int
    expires_at: datetime | None
    passes_opt_out: bool
    estimated_parts: int | None


_COLUMNS = tuple(tables.messages.c[name] for name in DueRow._fields)

_MAY_SEND = and_(tables.batches.c.id == tables.messages.c.batch_id, tables.batches.c.status.in_(MAY_SEND))

# One index seek per batch, however many rows each has: DISTINCT would read them all.
_BATCHES_WITH_QUEUED_ROWS = text(
    """
    WITH RECURSIVE found(id) AS (
        SELECT min(batch_id) FROM messages WHERE status = 'queued' AND priority = 5
        UNION ALL
        SELECT (SELECT min(batch_id) FROM messages
                WHERE status = 'queued' AND priority = 5 AND batch_id > found.id)
        FROM found WHERE found.id IS NOT NULL
    )
    SELECT batches.id, batches.sender_id FROM found JOIN batches ON batches.id = found.id
    WHERE batches.status IN ('sending', 'scheduled')
    """
)


def has_urgent(database: Database) -> bool:
    """A look that takes no lock: whether a single text or a reply is due."""
    with database.read() as connection:
        return _is_urgent_due(connection, database.now(connection))


def _is_urgent_due(connection: Connection, now: datetime) -> bool:
    return bool(connection.execute(_IS_URGENT_DUE, due_now(connection, now)).scalar())


def has_due(database: Database) -> bool:
    """The same for everything: whether a claim would find a row, pauses aside."""
    if has_urgent(database):
        return True
    with database.read() as connection:
        now = due_now(connection, database.now(connection))
        return any(
            connection.execute(_DUE_IN_BATCH, {**now, "batch_id": batch_id, "most": 1}).first()
            for batch_id in _sending_batches(connection, pauses.Pauses(frozenset()))
        )


_MOST = bindparam("most", type_=Integer())


def _due(priority: int) -> Select[Any]:
    """Asked with `now`, and with `most` where it is executed by itself."""
    # In the index's own words: SQLite does not see that `priority = 1` implies its `priority < 5`, and
    # would read the whole table.
    queued: Any = tables.URGENT if priority in URGENT_PRIORITIES else tables.BULK
    due: list[ColumnElement[bool]] = [
        queued,
        tables.messages.c.priority == priority,
        *IS_DUE,
    ]
    if priority in URGENT_PRIORITIES:
        # Few texts, many batches: asked row by row. Bulk asks once per batch.
        due.append(or_(tables.messages.c.batch_id.is_(None), exists().where(_MAY_SEND)))
    return select(*_COLUMNS).where(*due).order_by(tables.messages.c.due_at, tables.messages.c.id)


# Made once: SQLAlchemy takes longer to put one of these together than SQLite takes to answer it.
_IS_URGENT_DUE = select(or_(*(_due(priority).exists() for priority in URGENT_PRIORITIES)))

_URGENT_DUE = {priority: _due(priority).limit(_MOST) for priority in URGENT_PRIORITIES}

_DUE_IN_BATCH = _due(BATCH_PRIORITY).where(tables.messages.c.batch_id == bindparam("batch_id")).limit(_MOST)

_LAST = tables.messages.alias("last")

_LAST_DUE_AT = select(_LAST.c.due_at).where(_LAST.c.id == bindparam("last_id")).scalar_subquery()

_DUE_BEHIND_LAST = _DUE_IN_BATCH.where(
    tables.messages.c.due_at >= _LAST_DUE_AT,
    or_(tables.messages.c.due_at > _LAST_DUE_AT, tables.messages.c.id > bindparam("last_id")),
)


def due_rows(
    connection: Connection, now: datetime, paused: pauses.Pauses, limit: int, urgent_only: bool
) -> list[DueRow]:
    rows: list[DueRow] = []
    # One question instead of two, for mostly there is none.
    for priority in URGENT_PRIORITIES if _is_urgent_due(connection, now) else ():
        rows += _take(
            connection, _URGENT_DUE[priority], paused, limit - len(rows), **due_now(connection, now)
        )
    if urgent_only:
        return rows
    for batch_id in _sending_batches(connection, paused):
        if len(rows) >= limit:
            break
        rows += _take_from_batch(connection, batch_id, paused, limit - len(rows), now)
    return rows


def _take_from_batch(
    connection: Connection, batch_id: int, paused: pauses.Pauses, limit: int, now: datetime
) -> Sequence[DueRow]:
    """Up to `limit` rows; of a batch of texts of their own only as many as one claim can post."""
    asked = {"batch_id": batch_id, **due_now(connection, now)}
    first = _take(connection, _DUE_IN_BATCH, paused, min(limit, POSTS_PER_CLAIM), **asked)
    texts = {row.text for row in first}
    if len(first) < POSTS_PER_CLAIM or len(texts) > len(first) // 2:
        return first
    behind = {**asked, "last_id": first[-1].id}
    return [*first, *_take(connection, _DUE_BEHIND_LAST, paused, limit - len(first), **behind)]


def _take(
    connection: Connection, statement: Select[Any], paused: pauses.Pauses, limit: int, **asked: Any
) -> Sequence[DueRow]:
    if limit <= 0:
        return []
    held = [name.removeprefix(pauses.SENDER_PREFIX) for name in sorted(paused.names)]
    if held:
        # As `pauses.sender_name` spells it; what is claimed here and released there would spin.
        sender = func.upper(func.coalesce(tables.messages.c.sender_id, ""))
        statement = statement.where(sender.not_in(held))
    locking = statement.with_for_update(skip_locked=True, of=tables.messages)
    found = connection.execute(locking, {**asked, "most": limit})
    return [DueRow._make(row) for row in found]


def _sending_batches(connection: Connection, paused: pauses.Pauses) -> list[int]:
    """Batches with queued rows that may go, in an order that gives each its share.

    One whose sender is paused is left out whole, for its million rows would be read to find none.
    """
    found = connection.execute(_BATCHES_WITH_QUEUED_ROWS)
    ids = [row.id for row in found if not paused.holds(row.sender_id)]
    random.shuffle(ids)
    return ids
