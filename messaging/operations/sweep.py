"""Each minute: what a dead process left behind, and what time alone decides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, case, delete, select, update

from messaging import statuses
from messaging.access import login_throttle, send_throttle, sessions
from messaging.batches import refused_rows, upload_store
from messaging.callbacks import received, replay
from messaging.costs import budgets
from messaging.forwarding import outbox
from messaging.messages import idempotency, lost_texts, search, status_counts, status_events
from messaging.operations import counts, erasure
from messaging.reports import adoption, parked
from messaging.sending import last_check, start_post
from messaging.storage import rollback, tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from utils import reasons
from utils.settings import Settings

# AT's `Sent` can last for ever (docs/africastalking.md, 4b); eleven hours were seen, so three days is the horizon
# within which a report may also be adopted.
REPORT_HORIZON = timedelta(hours=72)
CHUNK = 1000
HEARTBEAT_KEPT = timedelta(days=1)
# What time has decided: message ids, their status, the reason.
Finder = Callable[[Connection, datetime], tuple[list[int], str, str]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    requeued: int
    unknown: int
    expired: int
    no_report: int
    joined: int
    adopted: int
    uploads_forgotten: int
    reapplied: int


def sweep(database: Database, settings: Settings) -> Swept:
    """Raises Recovering: what has left has to be known first."""
    with database.write() as connection:
        rollback.require(connection, wall_clock(connection))
    # What AT has told already counts before anything is inferred, or called unknown, without it.
    received.apply_received(database, settings)
    requeued, unknown = sweep_expired_leases(database)
    status_counts.fold(database)
    counts.fold(database)
    search.index_new(database)
    swept = Swept(
        requeued=requeued,
        unknown=unknown,
        expired=_settle_in_chunks(database, _too_late) + _settle_in_chunks(database, _held_too_late),
        no_report=_settle_in_chunks(database, _without_report),
        joined=parked.join_stragglers(database),
        adopted=adoption.adopt_by_number(database) if settings.adopt_by_number else 0,
        uploads_forgotten=_forget_old(database, settings),
        # Last: a body at which the store itself stumbles must cost the sweep nothing else.
        reapplied=replay.retry_unapplied(database, settings),
    )
    if any(asdict(swept).values()):
        logger.info("swept", extra=asdict(swept))
    return swept


def _forget_old(database: Database, settings: Settings) -> int:
    """Keys, events and heartbeats that nobody asks for any more; how many uploads went."""
    with database.write() as connection:
        now = wall_clock(connection)
        idempotency.forget_old(connection, now)
        sessions.forget_old(connection, now)
        login_throttle.forget_old(connection, steady(connection, now))
        send_throttle.forget_old(connection, steady(connection, now))
        lost_texts.forget_old(connection, now - timedelta(days=settings.witness_days))
        outbox.forget_old(connection, now, timedelta(days=settings.retention_days))
        connection.execute(
            delete(tables.heartbeats).where(
                tables.heartbeats.c.seen_at < steady(connection, now) - HEARTBEAT_KEPT
            )
        )
    retention = timedelta(days=settings.retention_days)
    refused_rows.forget_old(database, now - retention)
    erasure.erase_conversations(database, now - max(retention, erasure.REPORTS_COME))
    erasure.erase_old(database, retention)
    return upload_store.forget_abandoned(database)


def sweep_expired_leases(database: Database) -> tuple[int, int]:
    """Attempts whose worker died: claimed ones give their rows back, posting ones leave them `unknown`.

    Never resends by itself, whatever `on_unknown` says: a worker that is merely slow may still be posting.
    """
    requeued = unknown = 0
    while attempt := _next_expired(database):
        with database.write() as connection:
            now = wall_clock(connection)
            state = _state(connection, attempt.id, now)
            if state == "posting":
                unknown += _lose(connection, attempt.id, now)
            elif state == "claimed" and attempt.is_trigger:
                start_post.cancel(connection, attempt.id, "worker_died", now)
            elif state == "claimed":
                requeued += last_check.release(connection, attempt.id)
    return requeued, unknown


def _next_expired(database: Database) -> Row[int, bool] | None:
    with database.read() as connection:
        now = steady(connection, wall_clock(connection))
        statement = (
            select(tables.attempts.c.id, tables.attempts.c.is_trigger)
            .where(tables.OPEN, tables.attempts.c.lease_until < now)
            .limit(1)
        )
        return connection.execute(statement).one_or_none()


def _state(connection: Connection, attempt_id: int, now: datetime) -> str | None:
    """The state of an attempt that is still expired; its row is ours until the commit."""
    statement = (
        select(tables.attempts.c.state)
        .where(tables.attempts.c.id == attempt_id, tables.attempts.c.lease_until < steady(connection, now))
        .with_for_update()
    )
    return connection.execute(statement).scalar_one_or_none()


def _lose(connection: Connection, attempt_id: int, now: datetime) -> int:
    connection.execute(
        update(tables.attempts)
        .where(tables.attempts.c.id == attempt_id)
        .values(state="unknown", finished_at=now, outcome="unknown", reason="worker_died")
    )
    lost = list(
        connection.execute(
            select(tables.messages.c.id).where(
                tables.messages.c.attempt_id == attempt_id, tables.messages.c.status == statuses.SENDING
            )
        ).scalars()
    )
    given_up = case((tables.messages.c.on_unknown == "fail", "given_up"), else_="worker_died")
    connection.execute(
        update(tables.messages)
        .where(tables.messages.c.id.in_(lost))
        .values(status=statuses.UNKNOWN, reason=given_up)
    )
    happened = [
        status_events.Event(one, now, statuses.UNKNOWN, "sweep", attempt_id, "worker_died") for one in lost
    ]
    status_events.record(connection, happened)
    held = select(tables.attempts.c.budget_batch_id, tables.attempts.c.reserved_micros).where(
        tables.attempts.c.id == attempt_id
    )
    budgets.charge_loss(connection, *connection.execute(held).one())
    return len(lost)


def _settle_in_chunks(database: Database, find: Finder) -> int:
    settled = 0
    while True:
        with database.write() as connection:
            now = wall_clock(connection)
            ids, status, reason = find(connection, now)
            status_events.settle(connection, ids, status, reason, now, source="sweep")
        settled += len(ids)
        if len(ids) < CHUNK:
            return settled


def _too_late(connection: Connection, now: datetime) -> tuple[list[int], str, str]:
    statement = select(tables.messages.c.id).where(
        tables.messages.c.status == statuses.QUEUED, tables.messages.c.expires_at <= now
    )
    return _ids(connection, statement), statuses.EXPIRED, reasons.TOO_LATE


def _held_too_late(connection: Connection, now: datetime) -> tuple[list[int], str, str]:
    statement = select(tables.messages.c.id).where(tables.HELD_EXPIRING, tables.messages.c.expires_at <= now)
    return _ids(connection, statement), statuses.EXPIRED, "too_late"


def _without_report(connection: Connection, now: datetime) -> tuple[list[int], str, str]:
    statement = select(tables.messages.c.id).where(
        tables.messages.c.status == statuses.ACCEPTED, tables.messages.c.sent_at < now - REPORT_HORIZON
    )
    return _ids(connection, statement), statuses.NO_REPORT, "no_report"


def _ids(connection: Connection, statement: Select[Any]) -> list[int]:
    # Locked and skipping, so that a sweep never waits for a claim, nor a claim for a sweep.
    return list(connection.execute(statement.limit(CHUNK).with_for_update(skip_locked=True)).scalars())
