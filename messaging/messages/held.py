"""Messages that wait for a person: a brake or a restore holds them, a person releases or cancels them.

A held message is never claimed and is in nobody's way. Its batch is not finished before it is released, cancelled, or
too late. What forbids a text is asked again when it is released.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, or_, select, update

from messaging import statuses
from messaging.access.approval import require_approver
from messaging.batch_statuses import CANCELLED
from messaging.messages import status_events
from messaging.messages.accept import FindBlocked
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database, wake_after_commit
from messaging.storage.due_times import IS_DUE, due_now
from utils import reasons
from utils.errors import Conflict

CHUNK = 1000
OPERATOR = "operator"


class NotHeld(Conflict):
    code = "not_held"
    sentence = "Only what is held can be released or cancelled"


_HOLD = (
    update(tables.messages)
    .where(one_of(tables.messages.c.id, "ids"), tables.messages.c.status == statuses.QUEUED)
    .values(status=statuses.HELD, reason=bindparam("new_reason"))
    .returning(tables.messages.c.id)
)
# A window of ids. The status is hidden from the planners, who would read all that is queued for each window.
_DUE = (
    select(tables.messages.c.id)
    .where(
        tables.messages.c.id > bindparam("after_id"),
        tables.messages.c.id <= bindparam("up_to"),
        func.coalesce(tables.messages.c.status, "") == statuses.QUEUED,
        *IS_DUE,
    )
    .order_by(tables.messages.c.id)
    .with_for_update()
)
_HELD = (
    select(
        tables.messages.c.id,
        tables.messages.c.recipient,
        tables.messages.c.sender_id,
        tables.messages.c.passes_opt_out,
        tables.messages.c.expires_at,
        tables.messages.c.reason,
        tables.batches.c.status.label("batch_status"),
    )
    .outerjoin(tables.batches, tables.batches.c.id == tables.messages.c.batch_id)
    .where(one_of(tables.messages.c.id, "ids"), tables.messages.c.status == statuses.HELD)
    .order_by(tables.messages.c.id)
    .with_for_update(of=tables.messages)
)
_QUEUE = (
    update(tables.messages)
    .where(one_of(tables.messages.c.id, "ids"))
    .values(
        status=statuses.QUEUED,
        reason=None,
        passes_limits=or_(tables.messages.c.passes_limits, tables.messages.c.reason == reasons.DAILY_LIMIT),
    )
)


def hold(
    connection: Connection,
    ids: Sequence[int],
    reason: str,
    now: datetime,
    source: str = "worker",
    detail: str | None = None,
) -> list[int]:
    """Holds those of the messages that are queued, also if this transaction made them; which ones.

    `detail`: what the history says, else the reason.
    """
    if not ids:
        return []
    found = connection.execute(_HOLD, {"ids": ids, "new_reason": reason}).scalars()
    held = sorted(found)
    happened = [status_events.Event(one, now, statuses.HELD, source, None, detail or reason) for one in held]
    status_events.record(connection, happened)
    return held


def hold_due(
    connection: Connection,
    reason: str,
    now: datetime,
    after_id: int,
    *,
    source: str = "recovery",
    detail: str | None = None,
) -> list[int]:
    """Holds what is queued and due among the thousand ids behind `after_id`; which ones.

    Whatever state their batches are in: a paused one may be resumed by somebody who does not know why it must not.
    """
    asked = {"after_id": after_id, "up_to": after_id + CHUNK, **due_now(connection, now)}
    ids = list(connection.execute(_DUE, asked).scalars())
    return hold(connection, ids, reason, now, source, detail)


def hold_all_due(
    database: Database, reason: str, *, source: str = "recovery", detail: str | None = None
) -> int:
    """The same for all there are by now, a transaction for each thousand; how many."""
    count = 0
    queued = tables.messages.c.status == statuses.QUEUED
    with database.read() as connection:
        # Without those that a year has left behind, a transaction for each thousand.
        first_id = connection.execute(select(func.min(tables.messages.c.id)).where(queued)).scalar()
        last_id = connection.execute(select(func.max(tables.messages.c.id))).scalar() or 0
    after_id = last_id if first_id is None else first_id - 1
    while after_id < last_id:
        with database.write() as connection:
            now = wall_clock(connection)
            count += len(hold_due(connection, reason, now, after_id, source=source, detail=detail))
        after_id += CHUNK
    return count


def release(
    connection: Connection, ids: Iterable[int], now: datetime, by: str, find_blocked: FindBlocked
) -> dict[int, str]:
    """What became of those that are held: `queued`, or `blocked`, `expired`, `cancelled` where they may not go.

    Raises Forbidden where a brake holds one of them, and who is acting may not approve.
    """
    rows: Sequence[Any] = connection.execute(_HELD, {"ids": list(ids)}).all()
    for brake in {row.reason for row in rows} & reasons.BRAKES:
        require_approver(brake)
    blocked = _opted_out(connection, rows, find_blocked)
    became = {row.id: _status_now(row, row.id in blocked, now) for row in rows}
    detail = f"released by {by}"
    for status, reason in _REASONS.items():
        refused = [one for one, now_is in became.items() if now_is == status]
        status_events.settle(connection, refused, status, reason, now, OPERATOR, f"{detail}: {reason}")
    _queue(connection, [one for one, now_is in became.items() if now_is == statuses.QUEUED], now, detail)
    return became


def cancel(connection: Connection, ids: Iterable[int], now: datetime, by: str) -> list[int]:
    """Those of the messages that were held, and are cancelled now."""
    rows = connection.execute(_HELD, {"ids": list(ids)}).all()
    found = [row.id for row in rows]
    status_events.settle(
        connection, found, statuses.CANCELLED, "by_hand", now, OPERATOR, f"cancelled by {by}"
    )
    return found


def next_held(connection: Connection, after_id: int, reason: str | None = None) -> list[int]:
    """The next thousand ids behind `after_id`, of those that are held, or are for this reason."""
    statement = select(tables.messages.c.id).where(tables.HELD, tables.messages.c.id > after_id)
    if reason is not None:
        statement = statement.where(tables.messages.c.reason == reason)
    return list(connection.execute(statement.order_by(tables.messages.c.id).limit(CHUNK)).scalars())


_REASONS = {
    statuses.CANCELLED: "batch_cancelled",
    statuses.BLOCKED: reasons.OPTED_OUT,
    statuses.EXPIRED: reasons.TOO_LATE,
}


def _status_now(row: Row[Any], is_blocked: bool, now: datetime) -> str:
    if row.batch_status == CANCELLED:
        return statuses.CANCELLED
    if is_blocked:
        return statuses.BLOCKED
    is_late = row.expires_at is not None and row.expires_at <= now
    return statuses.EXPIRED if is_late else statuses.QUEUED


def _opted_out(connection: Connection, rows: Sequence[Row[Any]], find_blocked: FindBlocked) -> set[int]:
    """What may pass a block is asked about at the last check."""
    asked: dict[str | None, list[Row[Any]]] = {}
    for row in rows:
        if not row.passes_opt_out:
            asked.setdefault(row.sender_id, []).append(row)
    blocked: set[int] = set()
    for sender_id, mine in asked.items():
        phones = find_blocked(connection, [row.recipient for row in mine], sender_id)
        blocked.update(row.id for row in mine if row.recipient in phones)
    return blocked


def _queue(connection: Connection, ids: Sequence[int], now: datetime, detail: str) -> None:
    if not ids:
        return
    connection.execute(_QUEUE, {"ids": ids})
    happened = [status_events.Event(one, now, statuses.QUEUED, OPERATOR, None, detail) for one in ids]
    status_events.record(connection, happened)
    wake_after_commit(connection)
