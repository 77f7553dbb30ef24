"""The second of three small writes round a POST: just before the bytes leave, what could forbid them is asked again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, select, update

from messaging import statuses
from messaging.costs import daily_limits
from messaging.messages.status_events import settle
from messaging.sending import circuit_breaker, pauses, rate_limit
from messaging.sending.claim import Claim
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
from messaging.sending.spending import keep_within_limits
from messaging.storage import rollback, tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from messaging.storage.identity import Identity
from messaging.storage.retrying import TIMEOUT_SECONDS, with_retries
from utils.deadlines import boot_clock
from utils.reasons import DAILY_LIMIT

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
    identity: Identity


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


def begin_posting(
    database: Database,
    claim: Claim,
    rates: rate_limit.Rates,
    lease: timedelta,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Turn:
    """Asks again whether the claim may be posted, and writes down that it is. Threads share a commit.

    `timeout_seconds`: how long it waits for a database that is away. Raises Recovering.
    """
    asked = _Asked(database, claim, rates, lease)
    # By people: a group of 64 full POSTs took PostgreSQL 1.5 s, so what it had asked was stale at each try.
    weight = len(claim.recipients)

    def submit() -> Turn:
        turn: Turn = database.group_commit.submit(_begin_postings, asked, weight)
        return turn

    return with_retries(submit, timeout_seconds)


def _begin_postings(connection: Connection, asked: list[_Asked]) -> list[Turn]:
    # First of all, so that one session asks at a time: two would both find that no POST to a person is in flight.
    buckets = rate_limit.lock(connection)
    # Before the database's clock is read: the lease must not end there sooner than here.
    began_at = boot_clock()
    now = wall_clock(connection)
    identity = rollback.require(connection, now)
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
    allowed = [allow(connection, claim, look) for claim in wanted]
    admitted = None if _is_stale(began_at) else _admit(connection, buckets, asked, allowed, now, began_at)
    if admitted is None:
        # It waited for rows that another session held: what was asked before is asked again.
        return [one if isinstance(one, Released) else Wait(0.0) for one in allowed]
    turns: list[Turn] = []
    posted: list[tuple[timedelta, Posting]] = []
    for one, (claim_or_no, wait) in zip(asked, admitted, strict=True):
        if isinstance(claim_or_no, Released):
            turns.append(claim_or_no)
        elif wait > 0:
            turns.append(Wait(wait))
        else:
            posting = Posting(claim_or_no, now, began_at + one.lease.total_seconds(), identity)
            turns.append(posting)
            posted.append((one.lease, posting))
    _mark(connection, posted, now)
    return turns


def _is_stale(began_at: float) -> bool:
    return boot_clock() - began_at > STALE_SECONDS


def _admit(
    connection: Connection,
    buckets: rate_limit.Buckets,
    asked: list[_Asked],
    allowed: list[Claim | Released],
    now: datetime,
    began_at: float,
) -> list[tuple[Claim | Released, float]] | None:
    """Each with the seconds that it waits for the rate limit. None, and nothing is counted: it took too long."""
    if not any(isinstance(one, Claim) and one.charges is not None for one in allowed):
        return list(zip(allowed, _take_tokens(connection, buckets, asked, allowed, now), strict=True))
    # What a limit pauses may be locked, by a claim or by a person who pauses it: a STOP may come meanwhile.
    with connection.begin_nested() as savepoint:
        waits = _take_tokens(connection, buckets, asked, allowed, now)
        kept = _keep_within_limits(connection, allowed, waits, now)
        if not _is_stale(began_at):
            return list(zip(kept, waits, strict=True))
        savepoint.rollback()
    return None


def _keep_within_limits(
    connection: Connection, allowed: list[Claim | Released], waits: list[float], now: datetime
) -> list[Claim | Released]:
    """Of those that leave now. A trigger that would pass the limit of a day is over."""
    leaving = [one for one, wait in zip(allowed, waits, strict=True) if isinstance(one, Claim) and wait <= 0]
    kept = keep_within_limits(connection, leaving, now)
    for one in leaving:
        if one.is_trigger and isinstance(kept.get(one.attempt_id), Released):
            cancel(connection, one.attempt_id, DAILY_LIMIT, now)
    return [kept.get(one.attempt_id, one) if isinstance(one, Claim) else one for one in allowed]


def _take_back(connection: Connection, attempt_ids: list[int], now: datetime) -> None:
    """The commit's result was lost. Only this caller could have posted, so it may reset its own mark."""
    if attempt_ids:
        again = connection.execute(
            _CLAIMED_AGAIN, {"ids": attempt_ids, "now": steady(connection, now)}
        ).scalars()
        daily_limits.take_back(connection, again.all())


_CLAIMED_AGAIN = (
    update(tables.attempts)
    .where(
        one_of(tables.attempts.c.id, "ids"),
        tables.attempts.c.state == "posting",
        tables.attempts.c.lease_until > bindparam("now"),
    )
    .values(state="claimed", posting_at=None)
    .returning(tables.attempts.c.counted)
)


def _take_tokens(
    connection: Connection,
    buckets: rate_limit.Buckets,
    asked: list[_Asked],
    allowed: list[Claim | Released],
    now: datetime,
) -> list[float]:
    """Seconds to wait for each; the rate limit is the account's, so it is the same for all."""
    posts = [(len(one.recipients), one.urgent) for one in allowed if isinstance(one, Claim)]
    if not posts:
        return [0.0] * len(allowed)
    waits = iter(rate_limit.take(connection, buckets, asked[0].rates, posts, now))
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


def give_back(connection: Connection, claim: Claim, now: datetime) -> None:
    """Queues its texts again, also where its turn is written down: only its own thread knows that nothing left."""
    if is_ours(connection, claim):
        _take_back(connection, [claim.attempt_id], now)
        release(connection, claim.attempt_id)


def is_ours(connection: Connection, claim: Claim) -> bool:
    """In a database that was put back the attempt's id may be another process's."""
    ours = tables.attempts.c.id == claim.attempt_id, tables.attempts.c.token == claim.token
    return connection.execute(select(tables.attempts.c.id).where(*ours)).first() is not None


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
