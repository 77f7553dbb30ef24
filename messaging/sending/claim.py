"""The first of three small writes round a POST: rows become `sending`, held by an attempt with a lease."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    insert,
    text,
    update,
)

from messaging import statuses
from messaging.consent import ledger
from messaging.consent.consents import NO_RULE, ConsentRule
from messaging.costs.budgets import Budget, open_budgets, pause_used_up
from messaging.costs.daily_limits import NO_LIMITS, Charge, Charges, DailyLimits
from messaging.messages.queue import BATCH_PRIORITY
from messaging.messages.status_events import settle
from messaging.sending import circuit_breaker, pauses
from messaging.sending.due import DueRow, LongLooks, Wanted, find_due
from messaging.sending.origins import Origin, find_origins
from messaging.sending.sending_hours import NO_WINDOWS, SendingWindows
from messaging.storage import rollback, tables
from messaging.storage.bulk import as_array, as_json_rows, one_of
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database, wake_after_commit
from messaging.storage.identity import new_token
from messaging.storage.new_ids import reserve_ids
from messaging.storage.retrying import TIMEOUT_SECONDS
from utils import reasons

# Enough that texts of their own (one message a POST) do not pay a claim each, few enough that a lease never runs out
# while the last of them waits its turn.
MOST_POSTS = 64
LEASE_AFTER_TIMEOUT = timedelta(seconds=TIMEOUT_SECONDS)


@dataclass(frozen=True, slots=True)
class Claim:
    """One POST to be: equal text, equal sender, each recipient once. `recipients` maps E.164 to message id."""

    attempt_id: int
    text: str
    sender_id: str | None
    link_id: str | None
    recipients: dict[str, int]
    urgent: bool
    is_trigger: bool = False
    # The one POST that a half-open circuit breaker allows in this backoff step.
    is_probe: bool = False
    # Of a batch with a max_cost, and what of it is held back for this POST.
    budget: tuple[int, int, str] | None = None
    # Whose attempt it is: after a backup was put back, its id may be another's.
    token: str = ""
    # Whether each recipient must have agreed: asked again at the last check.
    needs_consent: bool = False
    # By message, of those that have one.
    origins: Mapping[int, Origin] = field(default_factory=dict)
    # What its texts count as in the limits of a day; None where nobody has set one for them.
    charges: Charges | None = None


@dataclass(slots=True)
class _Group:
    text: str
    sender_id: str | None
    link_id: str | None
    urgent: bool
    needs_consent: bool = False
    budget: Budget | None = None
    held_back: int = 0
    recipients: dict[str, int] = field(default_factory=dict)

    @property
    def budget_of_claim(self) -> tuple[int, int, str] | None:
        if self.budget is None:
            return None
        return self.budget.batch_id, self.held_back, self.budget.currency


@dataclass(frozen=True, slots=True)
class Taken:
    """`is_more`: more is due than this, or all that was found came too late or is blocked."""

    claims: list[Claim]
    is_more: bool = False


@dataclass(frozen=True, slots=True)
class ClaimLimits:
    """`posts`: how many one claim prepares. `lanes`: how many threads share what is due, and what they found."""

    recipients_per_post: int
    lease: timedelta
    posts: int = MOST_POSTS
    lanes: int = 1
    windows: SendingWindows = NO_WINDOWS
    looks: LongLooks = field(default_factory=LongLooks)
    consent: ConsentRule = NO_RULE
    daily: DailyLimits = NO_LIMITS


def claim_due(database: Database, worker: str, limits: ClaimLimits, *, urgent_only: bool = False) -> Taken:
    """`take` in a transaction of its own. Settled: rows of a claim that nobody knows of wait for their lease to end."""
    with database.write(settled=True) as connection:
        now = wall_clock(connection)
        return take(connection, worker, limits, now, urgent_only=urgent_only)


def take(
    connection: Connection,
    worker: str,
    limits: ClaimLimits,
    now: datetime,
    *,
    urgent_only: bool = False,
) -> Taken:
    """Claims due rows for up to `limits.posts` POSTs; none where nothing may be sent now. Raises Recovering."""
    identity = rollback.require(connection, now)
    paused = pauses.current(connection)
    circuit = circuit_breaker.current(connection, now)
    if paused.account or circuit.waits(now):
        return Taken([])
    if circuit.is_half_open:
        limits = replace(limits, recipients_per_post=1, posts=1)
    wanted = Wanted(limits.recipients_per_post, limits.posts, limits.lanes, urgent_only, limits.looks)
    due = find_due(connection, now, paused, wanted)
    rows = due.rows
    agreed = _with_consent(connection, _sendable(connection, rows, now), limits.consent, now)
    sendable = _in_their_window(connection, agreed, limits.windows, now)
    budgets = open_budgets(connection, sendable)
    groups = _groups(sendable, limits, budgets)
    pause_used_up(connection, budgets.values())
    if groups:
        circuit_breaker.take_turn(connection, circuit, now)
    elif len(sendable) < len(rows):
        # All of them were too late, opted out or lack consent: what is due behind them need not wait for the ticker.
        wake_after_commit(connection)
    origins = find_origins(connection, identity, sendable)
    claims = _write_attempts(connection, groups, worker, now, limits.lease, origins)
    is_more = due.is_more if claims else len(sendable) < len(rows)
    charges = limits.daily.charges(connection, sendable)
    return Taken(
        [
            replace(
                one,
                is_probe=circuit.is_half_open,
                charges=charges_of(one.recipients, charges, limits.daily.time_zone),
            )
            for one in claims
        ],
        is_more,
    )


def charges_of(
    recipients: Mapping[str, int], charges: Mapping[int, Charge], time_zone: str
) -> Charges | None:
    mine = {to: charges[message_id] for to, message_id in recipients.items() if message_id in charges}
    return Charges(time_zone, mine) if mine else None


def _sendable(connection: Connection, rows: list[DueRow], now: datetime) -> list[DueRow]:
    """Without the rows that came too late or whose owner opted out: those are settled here."""
    late = {row.id for row in rows if row.expires_at is not None and row.expires_at <= now}
    settle(connection, sorted(late), statuses.EXPIRED, reasons.TOO_LATE, now)
    in_time = [row for row in rows if row.id not in late] if late else rows
    blocked = _opted_out(connection, in_time)
    settle(connection, sorted(blocked), statuses.BLOCKED, reasons.OPTED_OUT, now)
    return [row for row in in_time if row.id not in blocked] if blocked else in_time


def needs_consent(row: DueRow, rule: ConsentRule) -> bool:
    """The confirmation of a STOP and an automatic answer to a person's own text are nobody's advertisement."""
    return rule.applies_to(row.sender_id) and row.inbound_id is None and not row.passes_opt_out


def _with_consent(
    connection: Connection, rows: list[DueRow], rule: ConsentRule, now: datetime
) -> list[DueRow]:
    """Without those who did not agree: their rows are settled here."""
    asked: dict[str | None, list[DueRow]] = {}
    for row in rows:
        if needs_consent(row, rule):
            asked.setdefault(row.sender_id, []).append(row)
    blocked: set[int] = set()
    for sender_id, mine in asked.items():
        lacking = rule.lacking(connection, [row.recipient for row in mine], sender_id)
        blocked.update(row.id for row in mine if row.recipient in lacking)
    settle(connection, sorted(blocked), statuses.BLOCKED, reasons.NO_CONSENT, now)
    return [row for row in rows if row.id not in blocked] if blocked else rows


def _in_their_window(
    connection: Connection, rows: list[DueRow], windows: SendingWindows, now: datetime
) -> list[DueRow]:
    """Without those whose network lets no such sender in at this hour: they wait for the opening.

    The confirmation of a STOP is nobody's advertisement.
    """
    if not windows.classes:
        return rows
    waiting: dict[datetime, list[int]] = {}
    for row in rows:
        opening = windows.opening_for(row.sender_id, row.recipient, now)
        if opening is not None and not row.passes_opt_out:
            waiting.setdefault(opening, []).append(row.id)
    for opening, ids in waiting.items():
        values = {"due_at": opening, "due_by_wall": True, "reason": "sending_window"}
        connection.execute(
            update(tables.messages).where(one_of(tables.messages.c.id, "ids")).values(**values), {"ids": ids}
        )
    later = {message_id for ids in waiting.values() for message_id in ids}
    return [row for row in rows if row.id not in later]


def _opted_out(connection: Connection, rows: list[DueRow]) -> set[int]:
    asked: dict[tuple[str | None, bool], list[DueRow]] = {}
    for row in rows:
        asked.setdefault((row.sender_id, row.passes_opt_out), []).append(row)
    blocked: set[int] = set()
    for (sender_id, passes), mine in asked.items():
        recipients = [row.recipient for row in mine]
        phones = ledger.suppressed(connection, recipients, sender_id, confirms_stop=passes)
        if phones:
            blocked.update(row.id for row in mine if row.recipient in phones)
    return blocked


def _groups(rows: Iterable[DueRow], limits: ClaimLimits, budgets: Mapping[int, Budget]) -> list[_Group]:
    """Rows that can share a POST, in the order they are due. A number twice goes into two POSTs."""
    groups: list[_Group] = []
    open_groups: dict[tuple[Any, ...], _Group] = {}
    for row in rows:
        budget = budgets.get(row.batch_id) if row.batch_id is not None else None
        # A POST holds back money of one batch only.
        needs = needs_consent(row, limits.consent)
        key = (row.text, row.sender_id, row.link_id, row.priority, budget and budget.batch_id, needs)
        group = open_groups.get(key)
        is_new = (
            group is None
            or row.recipient in group.recipients
            or len(group.recipients) >= limits.recipients_per_post
        )
        if is_new and len(groups) >= limits.posts:
            continue
        held_back = budget.admit(row.recipient, row.text, row.estimated_parts) if budget else 0
        if held_back is None:
            continue
        if group is None or is_new:
            is_urgent = row.priority < BATCH_PRIORITY
            group = _Group(row.text, row.sender_id, row.link_id, is_urgent, needs, budget)
            groups.append(group)
            # An answer to an on-demand text belongs to one linkId and one person.
            if row.link_id is None:
                open_groups[key] = group
        group.recipients[row.recipient] = row.id
        group.held_back += held_back
    return groups


def _write_attempts(
    connection: Connection,
    groups: list[_Group],
    worker: str,
    now: datetime,
    lease: timedelta,
    origins: Mapping[int, Origin],
) -> list[Claim]:
    if not groups:
        return []
    attempt_ids = reserve_ids(connection, tables.attempts, len(groups))
    claims = [
        Claim(
            attempt_id,
            group.text,
            group.sender_id,
            group.link_id,
            group.recipients,
            group.urgent,
            budget=group.budget_of_claim,
            token=new_token(),
            needs_consent=group.needs_consent,
            origins={one: origins[one] for one in group.recipients.values() if one in origins},
        )
        for attempt_id, group in zip(attempt_ids, groups, strict=True)
    ]
    lease_until = steady(connection, now) + lease
    connection.execute(
        insert(tables.attempts), [attempt_row(one, worker, now, lease_until) for one in claims]
    )
    _hold(connection, [(one.attempt_id, mine) for one in claims for mine in one.recipients.values()])
    return claims


_HOLD = """
    UPDATE messages SET status = 'sending', attempt_id = held.attempt_id
    FROM (SELECT json_extract(value, '$[0]') AS attempt_id, json_extract(value, '$[1]') AS id
          FROM json_each(?)) AS held
    WHERE messages.id = held.id
"""
_HOLD_ALL = text(
    """
    UPDATE messages SET status = 'sending', attempt_id = held.attempt_id
    FROM unnest(CAST(:attempt_ids AS bigint[]), CAST(:ids AS bigint[])) AS held(attempt_id, id)
    WHERE messages.id = held.id
    """
)


def _hold(connection: Connection, pairs: list[tuple[int, int]]) -> None:
    """`pairs`: attempt and message."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_HOLD, (as_json_rows(pairs),))
    else:
        attempt_ids, ids = zip(*pairs, strict=True)
        connection.execute(_HOLD_ALL, {"attempt_ids": as_array(attempt_ids), "ids": as_array(ids)})


def attempt_row(one: Claim, worker: str, now: datetime, lease_until: datetime) -> dict[str, Any]:
    return {
        "id": one.attempt_id,
        "token": one.token,
        "state": "claimed",
        "worker": worker,
        "is_trigger": one.is_trigger,
        "sender_id": one.sender_id,
        "message_count": len(one.recipients),
        "claimed_at": now,
        "lease_until": lease_until,
        "budget_batch_id": one.budget and one.budget[0],
        "reserved_micros": one.budget and one.budget[1],
    }
