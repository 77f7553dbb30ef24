"""Holding a batch, letting it go on, ending it. What a POST already carries is never undone."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, update

from messaging import statuses
from messaging.access import actions
from messaging.access.approval import require_approver
from messaging.batch_statuses import CANCELLED, FINISHED, MAY_SEND, PAUSED, RECEIVING, SCHEDULED, SENDING
from messaging.batches.progress import batch_in_json, require_batch
from messaging.costs.budgets import MAX_COST
from messaging.messages import status_events
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database, wake_after_commit
from utils.errors import Conflict
from utils.reasons import BRAKES, DAILY_LIMIT

# Rows of one transaction: callbacks wait no longer than it takes.
CHUNK = 500
# And between two of them SQLite's other writers, who poll for the lock, have to find it free.
BREATH_SECONDS = 0.01
# Failed or too late before AT had them.
_NEVER_LEFT = (
    select(func.count())
    .where(tables.messages.c.batch_id == bindparam("batch_id"))
    .where(
        tables.messages.c.status.in_((statuses.FAILED, statuses.EXPIRED)), tables.messages.c.sent_at.is_(None)
    )
)
BY_HAND = "by_hand"
# What a caller waits for; the worker's upkeep cancels the rest.
TIMEOUT_SECONDS = 2.0


def pause(database: Database, batch_id: int) -> dict[str, Any]:
    """No POST of this batch begins any more; one that is under way ends as it will. Harmless to repeat.

    The batch in the shape of `GET /v1/batches/{id}`. Raises NotFound, Conflict.
    """
    with database.write(settled=True) as connection:
        batch = require_batch(connection, batch_id, lock=True)
        if batch.status != PAUSED:
            _require(batch, MAY_SEND, "paused")
            _set(connection, batch_id, status=PAUSED, reason=BY_HAND)
            _note(connection, "pause", batch)
    return _shown(database, batch_id)


def resume(database: Database, batch_id: int) -> dict[str, Any]:
    """The batch goes on where it was. Harmless to repeat. Raises NotFound, Conflict.

    What a brake holds only an approver lets go (Forbidden), and then the limits of the day let it pass.
    """
    with database.write(settled=True) as connection:
        now = wall_clock(connection)
        batch = require_batch(connection, batch_id, lock=True)
        if batch.status not in MAY_SEND:
            _require(batch, (PAUSED,), "resumed")
            if batch.reason == MAX_COST:
                raise Conflict(
                    f"Batch {batch.id} has no room left in its max_cost: cancel it, and send the rest anew"
                )
            if batch.reason in BRAKES:
                require_approver(batch.reason, batch.created_by)
            _set(
                connection,
                batch_id,
                status=status_when_sendable(batch.send_at, now),
                reason=None,
                detail=None,
                passes_limits=batch.passes_limits or batch.reason == DAILY_LIMIT,
            )
            _note(connection, "resume", batch)
            wake_after_commit(connection)
    return _shown(database, batch_id)


def _shown(database: Database, batch_id: int) -> dict[str, Any]:
    """Without the lock: the sums of a million rows take a second, in which a last check would wait for it."""
    with database.read() as connection:
        return batch_in_json(connection, require_batch(connection, batch_id))


def cancel(database: Database, batch_id: int) -> dict[str, Any]:
    """Ends a batch: what is queued or held becomes `cancelled`, what Africa's Talking has stays as it is.

    The batch in the shape of `GET /v1/batches/{id}`, and `cancelled`, `already_sent`, `under_way`,
    `to_be_cancelled` (a large batch is finished by the worker) and `message`, the same in a sentence.
    Harmless to repeat. Raises NotFound, Conflict.
    """
    with database.write(settled=True) as connection:
        batch = require_batch(connection, batch_id, lock=True)
        if batch.status != CANCELLED:
            _require(batch, (RECEIVING, PAUSED, *MAY_SEND), "cancelled")
            _set(connection, batch_id, status=CANCELLED, reason=BY_HAND)
            _note(connection, "cancel", batch)
    # The word first, then the rows: a crash in between leaves nothing that could be sent.
    cancel_rest(database, batch_id, until=time.monotonic() + TIMEOUT_SECONDS)
    with database.read() as connection:
        shape = batch_in_json(connection, require_batch(connection, batch_id))
        never_left = connection.execute(_NEVER_LEFT, {"batch_id": batch_id}).scalar_one()
    return shape | _cancelled(shape["counts"], never_left)


def cancel_rest(database: Database, batch_id: int, until: float = math.inf) -> None:
    """Cancels what waits in a batch that has been cancelled, until `time.monotonic()` is `until`."""
    while cancel_chunk(database, batch_id) and time.monotonic() < until:
        time.sleep(BREATH_SECONDS)


def cancel_chunk(database: Database, batch_id: int) -> int:
    """Cancels some of what is queued or held in a batch that has been cancelled; how many. 0: nothing is left."""
    with database.write() as connection:
        ids = _waiting(connection, batch_id, statuses.QUEUED) or _waiting(connection, batch_id, statuses.HELD)
        now = wall_clock(connection)
        status_events.settle(connection, ids, statuses.CANCELLED, "batch_cancelled", now, source="operator")
        return len(ids)


def _waiting(connection: Connection, batch_id: int, status: str) -> list[int]:
    statement = (
        select(tables.messages.c.id)
        .where(tables.messages.c.batch_id == batch_id, tables.messages.c.status == status)
        # The order of ix_messages_batch: without it PostgreSQL reads the table from its beginning for
        # each chunk, over all that is cancelled already.
        .order_by(tables.messages.c.cost_currency)
        .limit(CHUNK)
        .with_for_update(skip_locked=True)
    )
    return list(connection.execute(statement).scalars())


def status_when_sendable(send_at: datetime | None, now: datetime) -> str:
    return SCHEDULED if send_at is not None and send_at > now else SENDING


def _require(batch: Row[Any], wanted: tuple[str, ...], verb: str) -> None:
    if batch.status not in wanted:
        raise Conflict(f"Batch {batch.id} {_STATES[batch.status]}: it cannot be {verb}")


_STATES = {
    RECEIVING: "is still being received",
    SCHEDULED: "is scheduled",
    SENDING: "is being sent",
    PAUSED: "is paused",
    CANCELLED: "has been cancelled",
    FINISHED: "has finished",
}


def _note(connection: Connection, verb: str, before: Row[Any]) -> None:
    after = require_batch(connection, before.id)
    said = [{"status": one.status, "reason": one.reason} for one in (before, after)]
    actions.note(connection, f"batch.{verb}", f"batch:{before.id}", *said)


def _set(connection: Connection, batch_id: int, **values: Any) -> None:
    connection.execute(update(tables.batches).where(tables.batches.c.id == batch_id).values(**values))


def _cancelled(counts: dict[str, int], never_left: int) -> dict[str, Any]:
    cancelled, under_way = counts.get(statuses.CANCELLED, 0), counts.get(statuses.SENDING, 0)
    waiting = counts.get(statuses.QUEUED, 0) + counts.get(statuses.HELD, 0)
    sent = sum(counts.get(status, 0) for status in _AT_HAS) - never_left
    sentence = (
        f"{cancelled + waiting} messages will not be sent; {sent} were sent already and stay as they are"
    )
    if under_way:
        sentence += f"; {under_way} were just being sent"
    return {
        "cancelled": cancelled,
        "to_be_cancelled": waiting,
        "already_sent": sent,
        "under_way": under_way,
        "message": sentence,
    }


_AT_HAS = (
    statuses.ACCEPTED,
    statuses.DELIVERED,
    statuses.FAILED,
    statuses.EXPIRED,
    statuses.NO_REPORT,
    statuses.UNKNOWN,
)
