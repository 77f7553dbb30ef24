"""The second half of the first write: just before the bytes leave, everything that could forbid them is asked again."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, literal_column, or_, select, update

from messaging import claims, lanes, opt_outs, pacing, pauses, statuses
from messaging.claims import SENDABLE_BATCHES, Claim, ClaimLimits, settle
from messaging.database import Database, wake_after_commit
from messaging.group_writes import Step
from messaging.models import attempts, batches, messages, suppressions
from messaging.patience import PATIENCE_SECONDS, with_patience
from messaging.value_lists import one_of
from utils.deadlines import boot_clock

# What forbids a POST was asked at most so long before it leaves, beside the commit itself.
STALE_SECONDS = 1.0
# The word itself, not a parameter: for a parameter SQLite does not take the index of what is sending.
IS_SENDING = messages.c.status == literal_column("'sending'")


@dataclass(frozen=True, slots=True)
class Posting:
    """Go: what may leave now. After this write only an answer, a report or a sweep moves these messages.

    `not_after`: the end of the lease by `boot_clock()`, which goes on while a process or a machine is stopped.
    """

    claim: Claim
    posting_at: datetime
    not_after: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: the account-wide pace. The lease keeps running."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Released:
    """No: the lease ended, sending was paused, the road narrowed, or nobody is left to send to."""

    reason: str


Turn = Posting | Wait | Released


@dataclass(slots=True)
class _Asked:
    database: Database
    claim: Claim
    pace: pacing.Pace
    lease: timedelta
    # A transaction was tried before, and the database went away: it may have committed the mark all the same.
    may_be_marked: bool = False


def claim_and_begin(
    database: Database, worker: str, limits: ClaimLimits, pace: pacing.Pace, *, urgent_only: bool = False
) -> tuple[Posting | None, list[Claim]]:
    """Claims, and writes down in the same transaction that the first is posted, where the pace lets it.

    What forbids a POST has been asked in this very transaction. The caller posts the first at once, and begins
    the others one by one.
    """
    tried: list[tuple[int, datetime]] = []

    def work() -> tuple[Posting | None, list[Claim]]:
        with database.write() as connection:
            # Before the database's clock is read, as below.
            began_at = boot_clock()
            now = database.now(connection)
            _give_back_taken(connection, worker, tried)
            taken = claims.take(database, connection, worker, limits, now, urgent_only=urgent_only)
            tried.extend((one.attempt_id, now) for one in taken)
            # Last, for all workers wait for the pace's row.
            if not taken or not _may_leave(connection, pace, taken[0], now) or _is_stale(began_at):
                return None, taken
            posting = Posting(taken[0], now, began_at + limits.lease.total_seconds())
            _mark(connection, [(limits.lease, posting)], now)
            return posting, taken[1:]

    # As long as a mark would live of which nobody knows.
    return with_patience(work, limits.lease.total_seconds())


def _is_stale(began_at: float) -> bool:
    """It waited for the pace, which another session held: what was asked before is asked again."""
    return boot_clock() - began_at > STALE_SECONDS


def _may_leave(connection: Connection, pace: pacing.Pace, claim: Claim, now: datetime) -> bool:
    return pacing.take(connection, pace, len(claim.recipients), now, urgent=claim.urgent) <= 0


def _give_back_taken(connection: Connection, worker: str, tried: Sequence[tuple[int, datetime]]) -> None:
    """What an earlier try has claimed, where its commit was done though nobody told: the marked one has not left.

    Known by worker and time too, for where it was not done, another may have got its id.
    """
    for attempt_id, claimed_at in tried:
        same = {"ids": [attempt_id], "by_worker": worker, "taken_at": claimed_at}
        if connection.execute(_TAKEN_BEFORE, same).rowcount:
            release(connection, attempt_id)


_TAKEN_BEFORE = (
    update(attempts)
    .where(
        one_of(attempts.c.id, "ids"),
        attempts.c.worker == bindparam("by_worker"),
        attempts.c.claimed_at == bindparam("taken_at"),
        attempts.c.state.in_(("claimed", "posting")),
    )
    .values(state="claimed", posting_at=None)
)


def begin_posting(
    database: Database,
    claim: Claim,
    pace: pacing.Pace,
    lease: timedelta,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Turn:
    """Asks again whether the claim may be posted, and writes down that it is. Threads share a commit.

    `patience_seconds`: how long it waits for a database that is away.
    """
    steps = [begin_step(database, claim, pace, lease)]
    turn: Turn = with_patience(lambda: database.grouped.submit_together(steps), patience_seconds)[0]
    return turn


def begin_step(database: Database, claim: Claim, pace: pacing.Pace, lease: timedelta) -> Step:
    """`begin_posting`, to be written together with something else; the same step where it is tried again."""
    # After the records: they lock the road's row, this the pace's, and both in that order.
    return Step(_begin_postings, _Asked(database, claim, pace, lease), rank=1)


def _begin_postings(connection: Connection, asked: list[_Asked]) -> list[Turn]:
    # Before the database's clock is read: the lease must not end there sooner than here.
    began_at = boot_clock()
    now = asked[0].database.now(connection)
    wanted = [one.claim for one in asked]
    _take_back(connection, [one.claim.attempt_id for one in asked if one.may_be_marked], now)
    for one in asked:
        one.may_be_marked = True
    look = _Look(
        alive=_alive(connection, wanted, now),
        unchanged=_unchanged(connection, wanted, now),
        paused=pauses.current(connection),
        is_narrow=lanes.is_narrow(connection, now),
        now=now,
    )
    turns: list[Turn] = []
    posted: list[tuple[timedelta, Posting]] = []
    allowed = [_allow(connection, claim, look) for claim in wanted]
    waits = _take_tokens(connection, asked, allowed, now)
    if _is_stale(began_at):
        return [one if isinstance(one, Released) else Wait(0.0) for one in allowed]
    for one, claim_or_no, wait in zip(asked, allowed, waits, strict=True):
        if isinstance(claim_or_no, Released):
            turns.append(claim_or_no)
        elif wait > 0:
            turns.append(Wait(wait))
        else:
            posting = Posting(claim_or_no, now, began_at + one.lease.total_seconds())
            turns.append(posting)
            posted.append((one.lease, posting))
    _mark(connection, posted, now)
    return turns


def _take_back(connection: Connection, attempt_ids: list[int], now: datetime) -> None:
    """A mark of which nobody knew that it was committed: who asks again is the one who would have posted."""
    if attempt_ids:
        connection.execute(_CLAIMED_AGAIN, {"ids": attempt_ids, "now": now})


_CLAIMED_AGAIN = (
    update(attempts)
    .where(
        one_of(attempts.c.id, "ids"), attempts.c.state == "posting", attempts.c.lease_until > bindparam("now")
    )
    .values(state="claimed", posting_at=None)
)


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at the database says of several claims; attempts by id."""

    alive: Set[int]
    unchanged: Set[int]
    paused: pauses.Pauses
    is_narrow: bool
    now: datetime


def _allow(connection: Connection, claim: Claim, look: _Look) -> Claim | Released:
    if claim.attempt_id not in look.alive:
        return Released("lease_ended")
    if reason := _forbidden(claim, look):
        release(connection, claim.attempt_id)
        return Released(reason)
    if claim.attempt_id in look.unchanged:
        return claim
    claim = _still_wanted(connection, claim, look.now)
    if not claim.recipients:
        release(connection, claim.attempt_id)
        return Released("nobody_left")
    return claim


def _take_tokens(
    connection: Connection, asked: list[_Asked], allowed: list[Claim | Released], now: datetime
) -> list[float]:
    """Seconds to wait for each; the pace is the account's, so it is the same for all."""
    posts = [(len(one.recipients), one.urgent) for one in allowed if isinstance(one, Claim)]
    if not posts:
        return [0.0] * len(allowed)
    waits = iter(pacing.take_many(connection, asked[0].pace, posts, now))
    return [next(waits) if isinstance(one, Claim) else 0.0 for one in allowed]


def release(connection: Connection, attempt_id: int) -> int:
    """Gives what is still `sending` under a claimed attempt back to the queue; returns how many rows."""
    if not _let_go(connection, attempt_id):
        return 0
    back = connection.execute(
        update(messages)
        .where(messages.c.attempt_id == attempt_id, IS_SENDING)
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


_ALIVE = (
    select(attempts.c.id)
    .where(
        one_of(attempts.c.id, "ids"), attempts.c.state == "claimed", attempts.c.lease_until > bindparam("now")
    )
    .order_by(attempts.c.id)
    .with_for_update()
)


def _alive(connection: Connection, wanted: Sequence[Claim], now: datetime) -> Set[int]:
    ids = [one.attempt_id for one in wanted]
    return set(connection.execute(_ALIVE, {"ids": ids, "now": now}).scalars())


# How many of each attempt's texts may still leave, without fetching them: nearly always all of them.
_WANTED = (
    select(messages.c.attempt_id, func.count().label("wanted"))
    .outerjoin(batches, batches.c.id == messages.c.batch_id)
    .where(one_of(messages.c.attempt_id, "ids"), IS_SENDING)
    .where(or_(messages.c.expires_at.is_(None), messages.c.expires_at > bindparam("now")))
    .where(or_(batches.c.status.is_(None), batches.c.status.in_(SENDABLE_BATCHES)))
    # The confirmation of a STOP meets its block here too: the slower look knows that it may pass.
    .where(
        ~exists().where(
            suppressions.c.phone == messages.c.recipient,
            suppressions.c.sender_id.in_((bindparam("everything"), bindparam("sender"))),
        )
    )
    .group_by(messages.c.attempt_id)
)


def _unchanged(connection: Connection, asked_for: Sequence[Claim], now: datetime) -> Set[int]:
    """Attempts all of whose texts may leave as they were claimed."""
    by_sender: dict[str, list[Claim]] = {}
    for one in asked_for:
        by_sender.setdefault(opt_outs.sender_key(one.sender_id), []).append(one)
    unchanged: set[int] = set()
    for sender, mine in by_sender.items():
        asked = {"ids": [one.attempt_id for one in mine], "now": now}
        asked |= {"everything": opt_outs.EVERYTHING, "sender": sender}
        wanted = {row.attempt_id: row.wanted for row in connection.execute(_WANTED, asked)}
        unchanged.update(one.attempt_id for one in mine if wanted.get(one.attempt_id) == len(one.recipients))
    return unchanged


def _forbidden(claim: Claim, look: _Look) -> str | None:
    """A person's trigger always tries: its success is what lifts a pause."""
    if claim.is_trigger:
        return None
    if look.paused.holds(claim.sender_id):
        return "paused"
    # A narrow claim is the very POST that its turn makes the others wait for.
    return "narrowed" if look.is_narrow and not claim.narrow else None


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
        .where(messages.c.attempt_id == claim.attempt_id, IS_SENDING)
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
    recipients = {row.recipient: row.id for row in rows if row.id not in gone}
    counted = {"attempt_id": claim.attempt_id, "new_message_count": len(recipients)}
    connection.execute(_COUNT_AGAIN, counted)
    return replace(claim, recipients=recipients)


_COUNT_AGAIN = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt_id"))
    .values(message_count=bindparam("new_message_count"))
)


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


_POSTING = (
    update(attempts)
    .where(one_of(attempts.c.id, "ids"))
    .values(state="posting", posting_at=bindparam("new_posting_at"), lease_until=bindparam("new_lease_until"))
)


def _mark(connection: Connection, posted: list[tuple[timedelta, Posting]], now: datetime) -> None:
    by_lease: dict[timedelta, list[int]] = {}
    for lease, posting in posted:
        by_lease.setdefault(lease, []).append(posting.claim.attempt_id)
    for lease, ids in by_lease.items():
        connection.execute(_POSTING, {"ids": ids, "new_posting_at": now, "new_lease_until": now + lease})


def cancel(
    connection: Connection, attempt_id: int, reason: str, now: datetime, *, is_marked: bool = False
) -> None:
    """A trigger that did not get its turn, or too late: nothing left, and no worker will send it.

    `is_marked`: its turn was written down, and only the caller could have posted.
    """
    if is_marked:
        _take_back(connection, [attempt_id], now)
    if not _let_go(connection, attempt_id, finished_at=now, reason=reason):
        return
    ids = list(
        connection.execute(
            select(messages.c.id).where(messages.c.attempt_id == attempt_id, IS_SENDING)
        ).scalars()
    )
    settle(connection, ids, statuses.CANCELLED, reason, now)
