"""The second half of the first write: just before the bytes leave, everything that could forbid them is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, select, update

from messaging import statuses
from messaging.messages.status_events import settle
from messaging.sending import circuit_breaker, pauses, rate_limit
from messaging.sending import claim as claims
from messaging.sending.claim import Claim, ClaimLimits
from messaging.sending.last_check import (
    IS_SENDING,
    Look,
    Released,
    allow,
    find_alive,
    find_unchanged,
    let_go,
    release,
)
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import steady
from messaging.storage.database import Database
from messaging.storage.group_commit import Step
from messaging.storage.retrying import TIMEOUT_SECONDS, with_retries
from utils.deadlines import boot_clock

# What forbids a POST was asked at most so long before it leaves, beside the commit itself.
STALE_SECONDS = 1.0


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
    """Not yet: the account-wide rate limit. The lease keeps running."""

    seconds: float


Turn = Posting | Wait | Released


@dataclass(slots=True)
class _Asked:
    database: Database
    claim: Claim
    rates: rate_limit.Rates
    lease: timedelta
    # A transaction was tried before, and the database went away: it may have committed the mark all the same.
    may_be_marked: bool = False


def claim_and_begin(
    database: Database,
    worker: str,
    limits: ClaimLimits,
    rates: rate_limit.Rates,
    *,
    urgent_only: bool = False,
) -> tuple[Posting | None, list[Claim]]:
    """Claims, and writes down in the same transaction that the first is posted, where the rate limit lets it.

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
            # Last, for all workers wait for the rate limit's row.
            if not taken or not _may_leave(connection, rates, taken[0], now) or _is_stale(began_at):
                return None, taken
            posting = Posting(taken[0], now, began_at + limits.lease.total_seconds())
            _mark(connection, [(limits.lease, posting)], now)
            return posting, taken[1:]

    # As long as a mark would live of which nobody knows.
    return with_retries(work, limits.lease.total_seconds())


def _is_stale(began_at: float) -> bool:
    """It waited for the rate limit, which another session held: what was asked before is asked again."""
    return boot_clock() - began_at > STALE_SECONDS


def _may_leave(connection: Connection, rates: rate_limit.Rates, claim: Claim, now: datetime) -> bool:
    return rate_limit.take(connection, rates, len(claim.recipients), now, urgent=claim.urgent) <= 0


def _give_back_taken(connection: Connection, worker: str, tried: Sequence[tuple[int, datetime]]) -> None:
    """Releases what an earlier try claimed, where its commit was done and only the result was lost. Nothing has left.

    It is matched by worker and time too: if the commit was not done, another attempt may have got the id.
    """
    for attempt_id, claimed_at in tried:
        same = {"ids": [attempt_id], "by_worker": worker, "taken_at": claimed_at}
        if connection.execute(_TAKEN_BEFORE, same).rowcount:
            release(connection, attempt_id)


_TAKEN_BEFORE = (
    update(tables.attempts)
    .where(
        one_of(tables.attempts.c.id, "ids"),
        tables.attempts.c.worker == bindparam("by_worker"),
        tables.attempts.c.claimed_at == bindparam("taken_at"),
        tables.attempts.c.state.in_(("claimed", "posting")),
    )
    .values(state="claimed", posting_at=None)
)


def begin_posting(
    database: Database,
    claim: Claim,
    rates: rate_limit.Rates,
    lease: timedelta,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Turn:
    """Asks again whether the claim may be posted, and writes down that it is. Threads share a commit.

    `timeout_seconds`: how long it waits for a database that is away.
    """
    steps = [begin_step(database, claim, rates, lease)]
    turn: Turn = with_retries(lambda: database.group_commit.submit_together(steps), timeout_seconds)[0]
    return turn


def begin_step(database: Database, claim: Claim, rates: rate_limit.Rates, lease: timedelta) -> Step:
    """`begin_posting`, to be written together with something else; the same step where it is tried again."""
    # After the records: they lock the circuit breaker's row, this the rate limit's, and both in that order.
    return Step(_begin_postings, _Asked(database, claim, rates, lease), rank=1)


def _begin_postings(connection: Connection, asked: list[_Asked]) -> list[Turn]:
    # Before the database's clock is read: the lease must not end there sooner than here.
    began_at = boot_clock()
    now = asked[0].database.now(connection)
    wanted = [one.claim for one in asked]
    _take_back(connection, [one.claim.attempt_id for one in asked if one.may_be_marked], now)
    for one in asked:
        one.may_be_marked = True
    look = Look(
        alive=find_alive(connection, wanted, now),
        unchanged=find_unchanged(connection, wanted, now),
        paused=pauses.current(connection),
        is_half_open=circuit_breaker.is_half_open(connection, now),
        now=now,
    )
    turns: list[Turn] = []
    posted: list[tuple[timedelta, Posting]] = []
    allowed = [allow(connection, claim, look) for claim in wanted]
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
    """The commit's result was lost. Only this caller could have posted, so it may reset its own mark."""
    if attempt_ids:
        connection.execute(_CLAIMED_AGAIN, {"ids": attempt_ids, "now": steady(connection, now)})


_CLAIMED_AGAIN = (
    update(tables.attempts)
    .where(
        one_of(tables.attempts.c.id, "ids"),
        tables.attempts.c.state == "posting",
        tables.attempts.c.lease_until > bindparam("now"),
    )
    .values(state="claimed", posting_at=None)
)


def _take_tokens(
    connection: Connection, asked: list[_Asked], allowed: list[Claim | Released], now: datetime
) -> list[float]:
    """Seconds to wait for each; the rate limit is the account's, so it is the same for all."""
    posts = [(len(one.recipients), one.urgent) for one in allowed if isinstance(one, Claim)]
    if not posts:
        return [0.0] * len(allowed)
    waits = iter(rate_limit.take_many(connection, asked[0].rates, posts, now))
    return [next(waits) if isinstance(one, Claim) else 0.0 for one in allowed]


_POSTING = (
    update(tables.attempts)
    .where(one_of(tables.attempts.c.id, "ids"))
    .values(state="posting", posting_at=bindparam("new_posting_at"), lease_until=bindparam("new_lease_until"))
)


def _mark(connection: Connection, posted: list[tuple[timedelta, Posting]], now: datetime) -> None:
    by_lease: dict[timedelta, list[int]] = {}
    for lease, posting in posted:
        by_lease.setdefault(lease, []).append(posting.claim.attempt_id)
    for lease, ids in by_lease.items():
        lease_until = steady(connection, now) + lease
        connection.execute(_POSTING, {"ids": ids, "new_posting_at": now, "new_lease_until": lease_until})


def cancel(
    connection: Connection, attempt_id: int, reason: str, now: datetime, *, is_marked: bool = False
) -> None:
    """A trigger that did not get its turn, or too late: nothing left, and no worker will send it.

    `is_marked`: its turn was written down, and only the caller could have posted.
    """
    if is_marked:
        _take_back(connection, [attempt_id], now)
    if not let_go(connection, attempt_id, finished_at=now, reason=reason):
        return
    ids = list(
        connection.execute(
            select(tables.messages.c.id).where(tables.messages.c.attempt_id == attempt_id, IS_SENDING)
        ).scalars()
    )
    settle(connection, ids, statuses.CANCELLED, reason, now)
