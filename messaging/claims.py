"""The first small write round a POST: rows become `sending`, held by an attempt with a lease."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
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
    insert,
    or_,
    select,
    text,
    update,
)

from messaging import events, lanes, opt_outs, pauses, statuses
from messaging.budgets import Budget, open_budgets, pause_used_up
from messaging.database import Database, wake_after_commit
from messaging.models import BULK, URGENT, attempts, batches, messages
from messaging.outbox import BATCH_PRIORITY
from messaging.patience import PATIENCE_SECONDS
from messaging.value_lists import as_array, as_json_rows, one_of
from messaging.windows import NO_WINDOWS, SendingWindows

LEASE_AFTER_TIMEOUT = timedelta(seconds=PATIENCE_SECONDS)
URGENT_PRIORITIES = (0, 1)
SENDABLE_BATCHES = ("sending", "scheduled")
# How many POSTs one claim prepares: enough that texts of their own (one message a POST) do not pay a claim
# each, few enough that a lease never runs out while the last of them waits its turn.
POSTS_PER_CLAIM = 64


class _DueRow(NamedTuple):
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


_COLUMNS = tuple(messages.c[name] for name in _DueRow._fields)
_MAY_SEND = and_(batches.c.id == messages.c.batch_id, batches.c.status.in_(SENDABLE_BATCHES))
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
    # Taken as the one POST of a backoff step: it may leave though the road is narrow.
    narrow: bool = False
    # Of a batch with a max_cost, and what of it is held back for this POST.
    budget: tuple[int, int, str] | None = None


@dataclass(slots=True)
class _Group:
    text: str
    sender_id: str | None
    link_id: str | None
    urgent: bool
    budget: Budget | None = None
    held_back: int = 0
    recipients: dict[str, int] = field(default_factory=dict)

    @property
    def budget_of_claim(self) -> tuple[int, int, str] | None:
        if self.budget is None:
            return None
        return self.budget.batch_id, self.held_back, self.budget.currency


@dataclass(frozen=True, slots=True)
class ClaimLimits:
    recipients_per_post: int
    lease: timedelta
    posts: int = POSTS_PER_CLAIM
    windows: SendingWindows = NO_WINDOWS


def take(
    database: Database,
    connection: Connection,
    worker: str,
    limits: ClaimLimits,
    now: datetime,
    *,
    urgent_only: bool = False,
) -> list[Claim]:
    """Claims due rows for up to `limits.posts` POSTs; empty where nothing may be sent now."""
    paused = pauses.current(connection)
    lane = lanes.current(connection, now)
    if paused.account or lane.waits(now):
        return []
    if lane.narrow:
        limits = replace(limits, recipients_per_post=1, posts=1)
    rows = _due_rows(connection, now, paused, limits.recipients_per_post, urgent_only)
    sendable = _in_their_window(connection, _sendable(connection, rows, now), limits.windows, now)
    budgets = open_budgets(connection, sendable)
    groups = _groups(sendable, limits, budgets)
    pause_used_up(connection, budgets.values())
    if groups:
        lanes.take_narrow_turn(connection, lane, now)
    elif len(sendable) < len(rows):
        # All of them were too late or opted out: what is due behind them need not wait for the ticker.
        wake_after_commit(connection)
    claims = _write_attempts(database, connection, groups, worker, now, limits.lease)
    return [replace(one, narrow=lane.narrow) for one in claims]


def has_urgent(database: Database) -> bool:
    """A look that takes no lock: whether a single text or a reply is due."""
    with database.read() as connection:
        now = database.now(connection)
        return _is_urgent_due(connection, now)


def _is_urgent_due(connection: Connection, now: datetime) -> bool:
    return bool(connection.execute(_IS_URGENT_DUE, {"now": now}).scalar())


def has_due(database: Database) -> bool:
    """The same for everything: whether a claim would find a row, pauses aside."""
    if has_urgent(database):
        return True
    with database.read() as connection:
        now = database.now(connection)
        return any(
            connection.execute(_DUE_IN_BATCH, {"now": now, "batch_id": batch_id, "most": 1}).first()
            for batch_id in _sending_batches(connection, pauses.Pauses(frozenset()))
        )


_NOW = bindparam("now", type_=messages.c.due_at.type)
_MOST = bindparam("most", type_=Integer())


def _due(priority: int) -> Select[Any]:
    """Asked with `now`, and with `most` where it is executed by itself."""
    # In the index's own words: SQLite does not see that `priority = 1` implies its `priority < 5`, and
    # would read the whole table.
    queued: Any = URGENT if priority in URGENT_PRIORITIES else BULK
    due: list[ColumnElement[bool]] = [queued, messages.c.priority == priority, messages.c.due_at <= _NOW]
    if priority in URGENT_PRIORITIES:
        # Few texts, many batches: asked row by row. Bulk asks once per batch.
        due.append(or_(messages.c.batch_id.is_(None), exists().where(_MAY_SEND)))
    return select(*_COLUMNS).where(*due).order_by(messages.c.due_at, messages.c.id)


# Made once: SQLAlchemy takes longer to put one of these together than SQLite takes to answer it.
_IS_URGENT_DUE = select(or_(*(_due(priority).exists() for priority in URGENT_PRIORITIES)))
_URGENT_DUE = {priority: _due(priority).limit(_MOST) for priority in URGENT_PRIORITIES}
_DUE_IN_BATCH = _due(BATCH_PRIORITY).where(messages.c.batch_id == bindparam("batch_id")).limit(_MOST)
_LAST = messages.alias("last")
_LAST_DUE_AT = select(_LAST.c.due_at).where(_LAST.c.id == bindparam("last_id")).scalar_subquery()
_DUE_BEHIND_LAST = _DUE_IN_BATCH.where(
    messages.c.due_at >= _LAST_DUE_AT,
    or_(messages.c.due_at > _LAST_DUE_AT, messages.c.id > bindparam("last_id")),
)


def _due_rows(
    connection: Connection, now: datetime, paused: pauses.Pauses, limit: int, urgent_only: bool
) -> list[_DueRow]:
    rows: list[_DueRow] = []
    # One question instead of two, for mostly there is none.
    for priority in URGENT_PRIORITIES if _is_urgent_due(connection, now) else ():
        rows += _take(connection, _URGENT_DUE[priority], paused, limit - len(rows), now=now)
    if urgent_only:
        return rows
    for batch_id in _sending_batches(connection, paused):
        if len(rows) >= limit:
            break
        rows += _take_from_batch(connection, batch_id, paused, limit - len(rows), now)
    return rows


def _take_from_batch(
    connection: Connection, batch_id: int, paused: pauses.Pauses, limit: int, now: datetime
) -> Sequence[_DueRow]:
    """Up to `limit` rows; of a batch of texts of their own only as many as one claim can post."""
    asked = {"batch_id": batch_id, "now": now}
    first = _take(connection, _DUE_IN_BATCH, paused, min(limit, POSTS_PER_CLAIM), **asked)
    texts = {row.text for row in first}
    if len(first) < POSTS_PER_CLAIM or len(texts) > len(first) // 2:
        return first
    behind = {**asked, "last_id": first[-1].id}
    return [*first, *_take(connection, _DUE_BEHIND_LAST, paused, limit - len(first), **behind)]


def _take(
    connection: Connection, statement: Select[Any], paused: pauses.Pauses, limit: int, **asked: Any
) -> Sequence[_DueRow]:
    if limit <= 0:
        return []
    held = [name.removeprefix(pauses.SENDER_PREFIX) for name in sorted(paused.names)]
    if held:
        # As `pauses.sender_name` spells it; what is claimed here and released there would spin.
        sender = func.upper(func.coalesce(messages.c.sender_id, ""))
        statement = statement.where(sender.not_in(held))
    locking = statement.with_for_update(skip_locked=True, of=messages)
    found = connection.execute(locking, {**asked, "most": limit})
    return [_DueRow._make(row) for row in found]


def _sending_batches(connection: Connection, paused: pauses.Pauses) -> list[int]:
    """Batches with queued rows that may go, in an order that gives each its share.

    One whose sender is paused is left out whole, for its million rows would be read to find none.
    """
    found = connection.execute(_BATCHES_WITH_QUEUED_ROWS)
    ids = [row.id for row in found if not paused.holds(row.sender_id)]
    random.shuffle(ids)
    return ids


def _sendable(connection: Connection, rows: list[_DueRow], now: datetime) -> list[_DueRow]:
    """Without the rows that came too late or whose owner opted out: those are settled here."""
    late = {row.id for row in rows if row.expires_at is not None and row.expires_at <= now}
    settle(connection, sorted(late), statuses.EXPIRED, "too_late", now)
    in_time = [row for row in rows if row.id not in late] if late else rows
    blocked = _opted_out(connection, in_time)
    settle(connection, sorted(blocked), statuses.BLOCKED, "opted_out", now)
    return [row for row in in_time if row.id not in blocked] if blocked else in_time


def _in_their_window(
    connection: Connection, rows: list[_DueRow], windows: SendingWindows, now: datetime
) -> list[_DueRow]:
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
        values = {"due_at": opening, "reason": "sending_window"}
        connection.execute(
            update(messages).where(one_of(messages.c.id, "ids")).values(**values), {"ids": ids}
        )
    later = {message_id for ids in waiting.values() for message_id in ids}
    return [row for row in rows if row.id not in later]


def _opted_out(connection: Connection, rows: list[_DueRow]) -> set[int]:
    asked: dict[tuple[str | None, bool], list[_DueRow]] = {}
    for row in rows:
        asked.setdefault((row.sender_id, row.passes_opt_out), []).append(row)
    blocked: set[int] = set()
    for (sender_id, passes), mine in asked.items():
        recipients = [row.recipient for row in mine]
        phones = opt_outs.suppressed(connection, recipients, sender_id, confirms_stop=passes)
        if phones:
            blocked.update(row.id for row in mine if row.recipient in phones)
    return blocked


def settle(
    connection: Connection,
    ids: Sequence[int],
    status: str,
    reason: str,
    now: datetime,
    source: str = "worker",
) -> None:
    """Gives messages a last status, the reason and the event. The caller has seen that they may take it."""
    if not ids:
        return
    values = {"status": status, "reason": reason, "finished_at": now}
    connection.execute(update(messages).where(one_of(messages.c.id, "ids")).values(**values), {"ids": ids})
    events.record(connection, [events.Event(one, now, status, source, None, reason) for one in ids])


def _groups(rows: Iterable[_DueRow], limits: ClaimLimits, budgets: Mapping[int, Budget]) -> list[_Group]:
    """Rows that can share a POST, in the order they are due. A number twice goes into two POSTs."""
    groups: list[_Group] = []
    open_groups: dict[tuple[Any, ...], _Group] = {}
    for row in rows:
        budget = budgets.get(row.batch_id) if row.batch_id is not None else None
        # A POST holds back money of one batch only.
        key = (row.text, row.sender_id, row.link_id, row.priority, budget and budget.batch_id)
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
            group = _Group(row.text, row.sender_id, row.link_id, is_urgent, budget)
            groups.append(group)
            # An answer to an on-demand text belongs to one linkId and one person.
            if row.link_id is None:
                open_groups[key] = group
        group.recipients[row.recipient] = row.id
        group.held_back += held_back
    return groups


def _write_attempts(
    database: Database,
    connection: Connection,
    groups: list[_Group],
    worker: str,
    now: datetime,
    lease: timedelta,
) -> list[Claim]:
    if not groups:
        return []
    attempt_ids = database.reserve_ids(connection, attempts, len(groups))
    claims = [
        Claim(
            attempt_id,
            group.text,
            group.sender_id,
            group.link_id,
            group.recipients,
            group.urgent,
            budget=group.budget_of_claim,
        )
        for attempt_id, group in zip(attempt_ids, groups, strict=True)
    ]
    connection.execute(insert(attempts), [attempt_row(one, worker, now, lease) for one in claims])
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


def attempt_row(one: Claim, worker: str, now: datetime, lease: timedelta) -> dict[str, Any]:
    return {
        "id": one.attempt_id,
        "state": "claimed",
        "worker": worker,
        "is_trigger": one.is_trigger,
        "sender_id": one.sender_id,
        "message_count": len(one.recipients),
        "claimed_at": now,
        "lease_until": now + lease,
        "budget_batch_id": one.budget and one.budget[0],
        "reserved_micros": one.budget and one.budget[1],
    }
