"""The outbox of events to the operator's own system: claimed with a lease, tried for about two days, kept as a log.

At least once: a worker that dies between the receiver's 200 and the record leaves the event to be sent again,
with the same id. The number of attempts is the claim's fence: a record that comes after its lease has passed
to another worker changes nothing, unless the event was accepted, which stays true.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import BindParameter, Connection, TextClause, bindparam, delete, func, select, update

from messaging.access import actions
from messaging.forwarding import receiver_state
from messaging.forwarding.events import WAITING
from messaging.storage import tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from utils.errors import NotFound

DELIVERED = "delivered"
FAILED = "failed"

# The wait after each attempt; the last one comes some two days after the first.
BACKOFF = tuple(
    timedelta(minutes=minutes) for minutes in (0.1, 0.5, 2, 5, 15, 30, 60, 120, 240, 480, 480, 480, 480, 480)
)
MOST_ATTEMPTS = len(BACKOFF) + 1
JITTER = 0.1
CHUNK = 128
# A worker takes no new event after half of it, and one attempt takes ten seconds at most.
LEASE = timedelta(minutes=2)
# One event that its receiver will never take must not pause the others.
FEWEST_TO_PAUSE = 2
LOG_KEPT = timedelta(days=7)
PRUNED_AT_ONCE = 5000

_ID: BindParameter[int] = bindparam("row_id")
_TRIED: BindParameter[int] = bindparam("tried")
_NOW_TYPE = tables.forward_events.c.due_at.type
_ACCEPT = (
    update(tables.forward_events)
    .where(tables.forward_events.c.id == _ID, tables.forward_events.c.state != DELIVERED)
    .values(
        state=DELIVERED,
        http_status=bindparam("new_status"),
        last_error=None,
        finished_at=bindparam("now", type_=_NOW_TYPE),
    )
)
_STILL_OURS = (
    tables.forward_events.c.id == _ID,
    tables.forward_events.c.state == WAITING,
    tables.forward_events.c.attempts == _TRIED,
)
_RETRY = (
    update(tables.forward_events)
    .where(*_STILL_OURS)
    .values(
        state=bindparam("new_state"),
        due_at=bindparam("new_due_at", type_=_NOW_TYPE),
        http_status=bindparam("new_status"),
        last_error=bindparam("new_error"),
        finished_at=bindparam("new_finished_at", type_=_NOW_TYPE),
    )
)
_RELEASE = (
    update(tables.forward_events)
    .where(*_STILL_OURS)
    .values(attempts=tables.forward_events.c.attempts - 1, due_at=bindparam("now", type_=_NOW_TYPE))
)
_HAS_DUE = select(tables.forward_events.c.id).where(tables.TO_FORWARD).limit(1)


class Answer(Protocol):
    """What `utils.webhook_client.WebhookAnswer` says of one attempt."""

    @property
    def status(self) -> int | None: ...
    @property
    def problem(self) -> str | None: ...
    @property
    def is_accepted(self) -> bool: ...
    @property
    def is_overloaded(self) -> bool: ...
    @property
    def is_gone(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class DueEvent:
    """One claimed event; `attempts` counts this one too."""

    row_id: int
    event_id: str
    body: bytes
    attempts: int


def has_due(database: Database, receiver: str) -> bool:
    """A look without a lock; the claim decides."""
    with database.read() as connection:
        now = steady(connection, wall_clock(connection))
        state = receiver_state.look(connection)
        if state is not None and state.receiver == receiver and receiver_state.waits(state, now):
            return False
        return connection.execute(_HAS_DUE.where(tables.forward_events.c.due_at <= now)).first() is not None


def claim(database: Database, receiver: str) -> list[DueEvent]:
    """What is due now, ours until the lease ends; while the receiver fails, one event per step of its backoff."""
    with database.write() as connection:
        now = wall_clock(connection)
        state = receiver_state.lock(connection, receiver, now)
        steady_now = steady(connection, now)
        if receiver_state.waits(state, steady_now):
            return []
        taken = _take(connection, steady_now, 1 if state.step else CHUNK)
        if state.step and taken:
            receiver_state.take_turn(connection, state, now)
        return taken


def _take(connection: Connection, now: datetime, limit: int) -> list[DueEvent]:
    statement = (
        select(
            tables.forward_events.c.id,
            tables.forward_events.c.event_id,
            tables.forward_events.c.body,
            tables.forward_events.c.attempts,
        )
        .where(tables.TO_FORWARD, tables.forward_events.c.due_at <= now)
        .order_by(tables.forward_events.c.due_at, tables.forward_events.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(statement).all()
    if not rows:
        return []
    connection.execute(
        update(tables.forward_events)
        .where(tables.forward_events.c.id.in_([row.id for row in rows]))
        .values(attempts=tables.forward_events.c.attempts + 1, due_at=now + LEASE)
    )
    return [DueEvent(row.id, row.event_id, row.body.encode(), row.attempts + 1) for row in rows]


def record(database: Database, receiver: str, due: Sequence[DueEvent], answers: Mapping[int, Answer]) -> None:
    """What the attempts came to, by row id; an event without an answer was not tried and is due again at once."""
    with database.write() as connection:
        now = wall_clock(connection)
        state = receiver_state.lock(connection, receiver, now)
        tried = [(one, answers[one.row_id]) for one in due if one.row_id in answers]
        accepted = [pair for pair in tried if pair[1].is_accepted]
        refused = [pair for pair in tried if not pair[1].is_accepted]
        _execute(connection, _ACCEPT, [_accepted(one, answer, now) for one, answer in accepted])
        steady_now = steady(connection, now)
        _execute(connection, _RETRY, [_refused(one, answer, now, steady_now) for one, answer in refused])
        left = [one for one in due if one.row_id not in answers]
        _execute(
            connection,
            _RELEASE,
            [{"row_id": one.row_id, "tried": one.attempts, "now": steady_now} for one in left],
        )
        if accepted:
            receiver_state.succeeded(connection, now)
        elif refused:
            _learn(connection, state, [answer for _, answer in refused], now)


def _execute(connection: Connection, statement: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(statement, rows)


def _accepted(one: DueEvent, answer: Answer, now: datetime) -> dict[str, Any]:
    return {"row_id": one.row_id, "new_status": answer.status, "now": now}


def _refused(one: DueEvent, answer: Answer, now: datetime, steady_now: datetime) -> dict[str, Any]:
    is_over = one.attempts >= MOST_ATTEMPTS
    return {
        "row_id": one.row_id,
        "tried": one.attempts,
        "new_state": FAILED if is_over else WAITING,
        "new_due_at": steady_now if is_over else steady_now + wait_after(one.attempts),
        "new_status": answer.status,
        "new_error": answer.problem,
        "new_finished_at": now if is_over else None,
    }


def wait_after(attempts: int) -> timedelta:
    """Spread a little, so that what failed together does not come back together."""
    return BACKOFF[attempts - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311  (no secret)


def _learn(connection: Connection, state: Any, answers: Sequence[Answer], now: datetime) -> None:
    """Nothing of a round was accepted."""
    reason = answers[-1].problem or ""
    is_down = any(answer.is_overloaded for answer in answers)
    receiver_state.failed(connection, state, reason, now, is_down=is_down)
    if any(answer.is_gone for answer in answers):
        receiver_state.pause(connection, "the receiver answered 410: it wants no more events", now)
    elif _fails_for_long(connection, state, now):
        receiver_state.pause(connection, f"nothing was accepted for a day: {reason}", now)


def _fails_for_long(connection: Connection, state: Any, now: datetime) -> bool:
    since = state.failing_since
    if since is None or steady(connection, now) - since < receiver_state.PAUSE_AFTER:
        return False
    tried = (
        select(tables.forward_events.c.id)
        .where(tables.TO_FORWARD, tables.forward_events.c.attempts > 0)
        .limit(FEWEST_TO_PAUSE)
    )
    return len(connection.execute(tried).all()) >= FEWEST_TO_PAUSE


def resume(database: Database) -> bool:
    """Tries everything that waits at once, also what a backoff holds. Whether forwarding was paused."""
    with database.write() as connection:
        now = wall_clock(connection)
        was_paused = receiver_state.resume(connection, now)
        steady_now = steady(connection, now)
        statement = update(tables.forward_events).where(
            tables.TO_FORWARD, tables.forward_events.c.due_at > steady_now
        )
        connection.execute(statement.values(due_at=steady_now))
        before = {"paused": was_paused}
        actions.note(connection, "forwarding.resume", "forwarding", before, {"paused": False})
        return was_paused


def resend(database: Database, event_id: str) -> None:
    """Puts one event back, with its id and all attempts before it, whatever became of it. Raises NotFound."""
    with database.write() as connection:
        now = steady(connection, wall_clock(connection))
        statement = (
            update(tables.forward_events)
            .where(tables.forward_events.c.event_id == event_id)
            .values(state=WAITING, attempts=0, due_at=now, finished_at=None, last_error=None)
        )
        # PostgreSQL refuses some characters even in a comparison, the null character first.
        if not event_id.isprintable() or not connection.execute(statement).rowcount:
            raise NotFound(f"There is no event {event_id}")
        actions.note(connection, "event.resend", f"event:{event_id}")


def forget_old(connection: Connection, now: datetime, retention: timedelta) -> int:
    """The log of what was delivered for a week; nothing longer than texts and numbers may be kept."""
    is_old = (tables.forward_events.c.created_at < now - min(LOG_KEPT, retention)) & (
        (tables.forward_events.c.state == DELIVERED) | (tables.forward_events.c.created_at < now - retention)
    )
    old = select(tables.forward_events.c.id).where(is_old).limit(PRUNED_AT_ONCE)
    return connection.execute(
        delete(tables.forward_events).where(tables.forward_events.c.id.in_(old))
    ).rowcount


def count_by_state(connection: Connection) -> dict[str, int]:
    """Of those that wait or failed: an operator acts on these, and both have an index."""
    counted = {WAITING: tables.TO_FORWARD, FAILED: tables.NOT_FORWARDED}
    return {state: _count(connection, condition) for state, condition in counted.items()}


def _count(connection: Connection, condition: TextClause) -> int:
    statement = select(func.count()).select_from(tables.forward_events).where(condition)
    return connection.execute(statement).scalar_one()
