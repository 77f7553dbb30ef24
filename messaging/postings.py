"""The second half of the first write: just before the bytes leave, everything that could forbid them is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from messaging import lanes, opt_outs, pacing, pauses, statuses
from messaging.claims import SENDABLE_BATCHES, Claim, settle
from messaging.database import Database, wake_after_commit
from messaging.models import attempts, batches, messages
from messaging.value_lists import one_of


@dataclass(frozen=True, slots=True)
class Posting:
    """Go: what may leave now. After this write only an answer, a report or a sweep moves these messages."""

    claim: Claim
    posting_at: datetime


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: the account-wide pace. The lease keeps running."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Released:
    """No: the lease ended, sending was paused, the road narrowed, or nobody is left to send to."""

    reason: str


def begin_posting(
    database: Database, claim: Claim, pace: pacing.Pace, lease: timedelta
) -> Posting | Wait | Released:
    with database.write() as connection:
        now = database.now(connection)
        if not _lease_is_alive(connection, claim, now):
            return Released("lease_ended")
        if reason := _forbidden(connection, claim, now):
            release(connection, claim.attempt_id)
            return Released(reason)
        claim = _still_wanted(connection, claim, now)
        if not claim.recipients:
            release(connection, claim.attempt_id)
            return Released("nobody_left")
        wait = pacing.take(connection, pace, len(claim.recipients), now, urgent=claim.urgent)
        if wait > 0:
            return Wait(wait)
        _mark(connection, claim, now, lease)
        return Posting(claim, now)


def release(connection: Connection, attempt_id: int) -> int:
    """Gives what is still `sending` under a claimed attempt back to the queue; returns how many rows."""
    if not _let_go(connection, attempt_id):
        return 0
    back = connection.execute(
        update(messages)
        .where(messages.c.attempt_id == attempt_id, messages.c.status == statuses.SENDING)
        .values(status=statuses.QUEUED, attempt_id=None)
    )
    if back.rowcount:
        wake_after_commit(connection)
    return back.rowcount


def _let_go(connection: Connection, attempt_id: int, **values: object) -> bool:
    """Whether the attempt was only claimed: of one that is posting, the texts may be on their way."""
    claimed = attempts.c.id == attempt_id, attempts.c.state == "claimed"
    ended = connection.execute(update(attempts).where(*claimed).values(state="released", **values))
    return ended.rowcount == 1


def _lease_is_alive(connection: Connection, claim: Claim, now: datetime) -> bool:
    statement = (
        select(attempts.c.state, attempts.c.lease_until)
        .where(attempts.c.id == claim.attempt_id)
        .with_for_update()
    )
    row = connection.execute(statement).one()
    return bool(row.state == "claimed" and row.lease_until > now)


def _forbidden(connection: Connection, claim: Claim, now: datetime) -> str | None:
    """A person's trigger always tries: its success is what lifts a pause."""
    if claim.is_trigger:
        return None
    if pauses.current(connection).holds(claim.sender_id):
        return "paused"
    lane = lanes.current(connection, now)
    # A narrow claim is the very POST that its turn makes the others wait for.
    return "narrowed" if not claim.narrow and (lane.step or lane.waits(now)) else None


def _still_wanted(connection: Connection, claim: Claim, now: datetime) -> Claim:
    """Without those who opted out, came too late, or whose batch was paused or cancelled since the claim."""
    statement = (
        select(
            messages.c.recipient,
            messages.c.id,
            messages.c.passes_opt_out,
            messages.c.expires_at,
            batches.c.status.label("batch_status"),
        )
        .outerjoin(batches, batches.c.id == messages.c.batch_id)
        .where(messages.c.attempt_id == claim.attempt_id, messages.c.status == statuses.SENDING)
    )
    found: Sequence[Any] = connection.execute(statement).all()
    rows = [row for row in found if row.batch_status in (None, *SENDABLE_BATCHES)]
    _give_back(connection, [row for row in found if row.batch_status not in (None, *SENDABLE_BATCHES)], now)
    blocked = _opted_out(connection, rows, claim.sender_id)
    late = [
        row.id
        for row in rows
        if row.expires_at is not None and row.expires_at <= now and row.id not in blocked
    ]
    settle(connection, blocked, statuses.BLOCKED, "opted_out", now)
    settle(connection, late, statuses.EXPIRED, "too_late", now)
    if len(rows) == len(claim.recipients) and not blocked and not late:
        return claim
    gone = {*blocked, *late}
    return replace(claim, recipients={row.recipient: row.id for row in rows if row.id not in gone})


def _give_back(connection: Connection, rows: Sequence[Any], now: datetime) -> None:
    """Texts of a batch that was paused wait with it; those of one that was cancelled go the same way."""
    cancelled = [row.id for row in rows if row.batch_status == "cancelled"]
    settle(connection, cancelled, statuses.CANCELLED, "batch_cancelled", now, source="operator")
    back = [row.id for row in rows if row.batch_status != "cancelled"]
    if back:
        connection.execute(_QUEUE_AGAIN, {"ids": back})


_QUEUE_AGAIN = (
    update(messages).where(one_of(messages.c.id, "ids")).values(status=statuses.QUEUED, attempt_id=None)
)


def _opted_out(connection: Connection, rows: Sequence[Any], sender_id: str | None) -> list[int]:
    blocked = []
    for passes in {row.passes_opt_out for row in rows}:
        mine = [row for row in rows if row.passes_opt_out == passes]
        asked = [row.recipient for row in mine]
        phones = opt_outs.suppressed(connection, asked, sender_id, confirms_stop=passes)
        blocked += [row.id for row in mine if row.recipient in phones]
    return blocked


def _mark(connection: Connection, claim: Claim, now: datetime, lease: timedelta) -> None:
    connection.execute(
        update(attempts)
        .where(attempts.c.id == claim.attempt_id)
        .values(state="posting", posting_at=now, lease_until=now + lease, message_count=len(claim.recipients))
    )


def cancel(connection: Connection, attempt_id: int, reason: str, now: datetime) -> None:
    """A trigger that did not get its turn: nothing left, and no worker will send it."""
    if not _let_go(connection, attempt_id, finished_at=now, reason=reason):
        return
    ids = list(
        connection.execute(
            select(messages.c.id).where(
                messages.c.attempt_id == attempt_id, messages.c.status == statuses.SENDING
            )
        ).scalars()
    )
    settle(connection, ids, statuses.CANCELLED, reason, now)
