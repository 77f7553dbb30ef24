"""The last check: just before the bytes leave, everything that could forbid the POST is asked again."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, literal_column, or_, select, update

from messaging import statuses
from messaging.batch_statuses import MAY_SEND
from messaging.consent import consents, forgotten, ledger
from messaging.messages.status_events import settle
from messaging.sending import order, pauses
from messaging.sending.claim import Claim
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import steady
from messaging.storage.database import wake_after_commit
from utils import reasons, sender_ids

# The word itself, not a parameter: for a parameter SQLite does not take the index of what is sending.
IS_SENDING = tables.messages.c.status == literal_column("'sending'")


# Sender and recipient.
Key = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class Released:
    """No: the lease ended, sending was paused, the circuit breaker opened, or nobody is left to send to."""

    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the database says of several claims; attempts by id."""

    alive: Set[int]
    unchanged: Set[int]
    paused: pauses.Pauses
    is_half_open: bool
    now: datetime
    # To whom another POST of the same group of writes leaves: the rows do not show that yet. `allow` adds to it.
    leaving: set[Key] = field(default_factory=set)


def allow(connection: Connection, claim: Claim, look: Look) -> Claim | Released:
    if claim.attempt_id not in look.alive:
        return Released("lease_ended")
    if reason := _forbidden(claim, look):
        release(connection, claim.attempt_id)
        return Released(reason)
    if claim.attempt_id not in look.unchanged:
        claim = _still_wanted(connection, claim, look.now)
    claim = _without_overlap(connection, claim, look.leaving)
    if not claim.recipients:
        release(connection, claim.attempt_id)
        return Released("nobody_left")
    return claim


def _without_overlap(connection: Connection, claim: Claim, leaving: set[Key]) -> Claim:
    """A trigger always goes."""
    twice = [] if claim.is_trigger else [one for one in claim.recipients if (claim.sender_id, one) in leaving]
    if twice:
        claim = _queue_again(connection, claim, twice)
    leaving.update((claim.sender_id, one) for one in claim.recipients)
    return claim


def leave_out(connection: Connection, claim: Claim, recipients: Collection[str]) -> Claim | None:
    """The claim without these, whose texts are queued again; None where nobody is left, and it is released."""
    claim = _queue_again(connection, claim, recipients)
    if claim.recipients:
        return claim
    release(connection, claim.attempt_id)
    return None


def _queue_again(connection: Connection, claim: Claim, recipients: Collection[str]) -> Claim:
    connection.execute(_QUEUE_AGAIN, {"ids": [claim.recipients[one] for one in recipients]})
    return _count_again(connection, claim, claim.recipients.keys() - set(recipients))


def release(connection: Connection, attempt_id: int) -> int:
    """Gives what is still `sending` under a claimed attempt back to the queue; returns how many rows."""
    if not let_go(connection, attempt_id):
        return 0
    back = connection.execute(
        update(tables.messages)
        .where(tables.messages.c.attempt_id == attempt_id, IS_SENDING)
        .values(status=statuses.QUEUED, attempt_id=None)
    )
    if back.rowcount:
        wake_after_commit(connection)
    return back.rowcount


def let_go(connection: Connection, attempt_id: int, **values: object) -> bool:
    """Whether the attempt was only claimed: of one that is posting, the texts may be on their way."""
    claimed = tables.attempts.c.id == attempt_id, tables.attempts.c.state == "claimed"
    ended = connection.execute(update(tables.attempts).where(*claimed).values(state="released", **values))
    return ended.rowcount == 1


_ALIVE = (
    select(tables.attempts.c.id, tables.attempts.c.token)
    .where(
        one_of(tables.attempts.c.id, "ids"),
        tables.attempts.c.state == "claimed",
        tables.attempts.c.lease_until > bindparam("now"),
    )
    .order_by(tables.attempts.c.id)
    .with_for_update()
)


def find_alive(connection: Connection, wanted: Sequence[Claim], now: datetime) -> Set[int]:
    tokens = {one.attempt_id: one.token for one in wanted}
    found = connection.execute(_ALIVE, {"ids": list(tokens), "now": steady(connection, now)})
    # In a database that was put back the id may be another process's attempt.
    return {row.id for row in found if row.token == tokens[row.id]}


# How many of each attempt's texts may still leave, without fetching them: nearly always all of them.
_WANTED = (
    select(tables.messages.c.attempt_id, func.count().label("wanted"))
    .outerjoin(tables.batches, tables.batches.c.id == tables.messages.c.batch_id)
    .where(one_of(tables.messages.c.attempt_id, "ids"), IS_SENDING)
    .where(or_(tables.messages.c.expires_at.is_(None), tables.messages.c.expires_at > bindparam("now")))
    .where(or_(tables.batches.c.status.is_(None), tables.batches.c.status.in_(MAY_SEND)))
    .where(order.is_next())
    # The confirmation of a STOP meets its block here too: the slower look knows that it may pass.
    .where(
        ~exists().where(
            tables.suppressions.c.phone == tables.messages.c.recipient,
            tables.suppressions.c.sender_id.in_((bindparam("everything"), bindparam("sender"))),
        )
    )
    .group_by(tables.messages.c.attempt_id)
)


def find_unchanged(connection: Connection, asked_for: Sequence[Claim], now: datetime) -> Set[int]:
    """Attempts all of whose texts may leave as they were claimed."""
    by_sender: dict[str, list[Claim]] = {}
    for one in asked_for:
        by_sender.setdefault(sender_ids.sender_key(one.sender_id), []).append(one)
    unchanged: set[int] = set()
    for sender, mine in by_sender.items():
        asked = order.moments(connection, now) | {"ids": [one.attempt_id for one in mine], "now": now}
        asked |= {"everything": ledger.EVERYTHING, "sender": sender}
        wanted = {row.attempt_id: row.wanted for row in connection.execute(_WANTED, asked)}
        unchanged.update(one.attempt_id for one in mine if wanted.get(one.attempt_id) == len(one.recipients))
    return unchanged - _of_the_forgotten(connection, asked_for) - _without_consent(connection, asked_for)


def _of_the_forgotten(connection: Connection, asked_for: Sequence[Claim]) -> set[int]:
    """Attempts to somebody whose opt-out stands as a hash, which no join finds."""
    hidden = forgotten.among(connection, [phone for one in asked_for for phone in one.recipients])
    return {one.attempt_id for one in asked_for if not hidden.isdisjoint(one.recipients)}


def _without_consent(connection: Connection, asked_for: Sequence[Claim]) -> set[int]:
    """Attempts to somebody who agreed at the claim and agrees no more."""
    by_sender: dict[str, list[Claim]] = {}
    for one in asked_for:
        if one.needs_consent:
            by_sender.setdefault(sender_ids.sender_key(one.sender_id), []).append(one)
    without: set[int] = set()
    for sender, mine in by_sender.items():
        phones = [phone for one in mine for phone in one.recipients]
        agreed = consents.has_consent(connection, phones, sender)
        without.update(one.attempt_id for one in mine if not agreed.issuperset(one.recipients))
    return without


def _lacking(connection: Connection, claim: Claim, phones: Sequence[str]) -> set[str]:
    if not claim.needs_consent:
        return set()
    return set(phones) - consents.has_consent(connection, phones, claim.sender_id)


def _forbidden(claim: Claim, look: Look) -> str | None:
    """A person's trigger always tries: its success is what lifts a pause."""
    if claim.is_trigger:
        return None
    if look.paused.holds(claim.sender_id):
        return "paused"
    # The probe is the one POST that the breaker allows in this step.
    return "circuit_open" if look.is_half_open and not claim.is_probe else None


def _still_wanted(connection: Connection, claim: Claim, now: datetime) -> Claim:
    """Without those who opted out, withdrew their consent, came too late, must wait, or whose batch was paused or
    cancelled since the claim."""
    statement = (
        select(
            tables.messages.c.recipient,
            tables.messages.c.id,
            tables.messages.c.passes_opt_out,
            tables.messages.c.expires_at,
            tables.batches.c.status.label("batch_status"),
            order.is_next().label("is_next"),
        )
        .outerjoin(tables.batches, tables.batches.c.id == tables.messages.c.batch_id)
        .where(tables.messages.c.attempt_id == claim.attempt_id, IS_SENDING)
    )
    found: Sequence[Any] = connection.execute(statement, order.moments(connection, now)).all()
    # A person's trigger always goes at once.
    wait = {
        row.id
        for row in found
        if row.batch_status not in (None, *MAY_SEND) or not (row.is_next or claim.is_trigger)
    }
    _give_back(connection, [row for row in found if row.id in wait], now)
    rows = [row for row in found if row.id not in wait]
    blocked = _opted_out(connection, rows, claim.sender_id)
    lacking = _lacking(connection, claim, [row.recipient for row in rows])
    withdrew = [row.id for row in rows if row.recipient in lacking and row.id not in blocked]
    late = [
        row.id
        for row in rows
        if row.expires_at is not None and row.expires_at <= now and row.id not in {*blocked, *withdrew}
    ]
    settle(connection, blocked, statuses.BLOCKED, reasons.OPTED_OUT, now)
    settle(connection, withdrew, statuses.BLOCKED, reasons.NO_CONSENT, now)
    settle(connection, late, statuses.EXPIRED, reasons.TOO_LATE, now)
    if len(rows) == len(claim.recipients) and not (blocked or withdrew or late):
        return claim
    gone = {*blocked, *withdrew, *late}
    return _count_again(connection, claim, {row.recipient for row in rows if row.id not in gone})


def _count_again(connection: Connection, claim: Claim, left: Set[str]) -> Claim:
    counted = {"attempt_id": claim.attempt_id, "new_message_count": len(left)}
    connection.execute(_COUNT_AGAIN, counted)
    return replace(claim, recipients={one: mine for one, mine in claim.recipients.items() if one in left})


_COUNT_AGAIN = (
    update(tables.attempts)
    .where(tables.attempts.c.id == bindparam("attempt_id"))
    .values(message_count=bindparam("new_message_count"))
)


def _give_back(connection: Connection, rows: Sequence[Any], now: datetime) -> None:
    """Texts of a batch that was paused wait with it, and texts that are not their person's next wait for those before.

    Those of a batch that was cancelled go the same way.
    """
    cancelled = [row.id for row in rows if row.batch_status == "cancelled"]
    settle(connection, cancelled, statuses.CANCELLED, "batch_cancelled", now, source="operator")
    back = [row.id for row in rows if row.batch_status != "cancelled"]
    if back:
        connection.execute(_QUEUE_AGAIN, {"ids": back})


_QUEUE_AGAIN = (
    update(tables.messages)
    .where(one_of(tables.messages.c.id, "ids"))
    .values(status=statuses.QUEUED, attempt_id=None)
)


def _opted_out(connection: Connection, rows: Sequence[Any], sender_id: str | None) -> list[int]:
    blocked = []
    for passes in {row.passes_opt_out for row in rows}:
        mine = [row for row in rows if row.passes_opt_out == passes]
        asked = [row.recipient for row in mine]
        phones = ledger.suppressed(connection, asked, sender_id, confirms_stop=passes)
        blocked += [row.id for row in mine if row.recipient in phones]
    return blocked
