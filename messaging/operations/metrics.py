"""The numbers that `/metrics` shows, read from the database at the moment of asking: true for all processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, TextClause, func, select

from messaging import statuses
from messaging.access.key_throttle import NAME as REFUSED_KEYS
from messaging.callbacks import received
from messaging.callbacks.refused import NAME as REFUSED
from messaging.operations.held import count_held
from messaging.operations.recovery_views import open_recovery, totals, unwritable
from messaging.storage import counters, tables
from messaging.storage.clocks import steady
from messaging.storage.database import Database

# Counting a million rows by status takes most of a second. A count that took long is kept for twenty times
# as long, so that asking often never costs more than a twentieth of one core.
KEPT_FACTOR = 20
CHEAP_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Gauge:
    """`value` by the values of `label`; a gauge without label has one entry under ''."""

    name: str
    help: str
    values: dict[str, float]
    label: str | None = None
    is_counter: bool = False


class Gauges:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._kept: list[Gauge] = []
        self._kept_until = 0.0

    def read(self) -> list[Gauge]:
        with self._lock:
            if time.monotonic() < self._kept_until:
                return self._kept
            began = time.monotonic()
            with self._database.read() as connection:
                self._kept = list(_gauges(self._database, connection))
            took = time.monotonic() - began
            self._kept_until = time.monotonic() + (took * KEPT_FACTOR if took > CHEAP_SECONDS else 0)
            return self._kept


def _gauges(database: Database, connection: Connection) -> Iterator[Gauge]:
    by_status = dict.fromkeys(statuses.ALL, 0.0) | _count_by(
        connection, tables.messages, tables.messages.c.status
    )
    yield Gauge("sms_messages", "Messages by status", by_status, "status")
    yield Gauge("sms_queue_depth", "Messages waiting to be sent", {"": by_status[statuses.QUEUED]})
    yield Gauge("sms_unknown", "Messages whose outcome is unknown", {"": by_status[statuses.UNKNOWN]})
    held = {kind: float(number) for kind, number in count_held(connection).items()}
    yield Gauge("sms_held", "What waits for a person, each kind up to 10000", held, "kind")
    parked = _count(connection, tables.delivery_reports, tables.delivery_reports.c.message_id.is_(None))
    yield Gauge("sms_parked_reports", "Delivery reports for an id we do not know", {"": parked})
    for outcome, meaning in (
        ("quarantined", "Callbacks that lack a field they need"),
        ("unapplied", "Callbacks that are stored but could not be applied"),
    ):
        # TO_LOOK_AT is said though the outcome implies it: SQLite takes the partial index only for its own words.
        looked_at = (tables.TO_LOOK_AT, tables.callbacks.c.outcome == outcome)
        number = _count(connection, tables.callbacks, *looked_at)
        yield Gauge(f"sms_{outcome}_callbacks", meaning, {"": number})
    for name, meaning in (
        (REFUSED, "Callbacks with a wrong token"),
        (REFUSED_KEYS, "Calls with a wrong key"),
    ):
        refused = float(counters.read(connection, name))
        yield Gauge(f"sms_{name}", meaning, {"": refused}, is_counter=True)
    yield Gauge(
        "sms_pauses", "Pauses in force (account or sender id)", {"": _count(connection, tables.pauses)}
    )
    recoveries, unknown = totals(connection)
    is_open = open_recovery(connection) is not None
    yield Gauge("sms_recovering", "Whether a recovery is open, so that nothing is sent", {"": float(is_open)})
    yield Gauge(
        "sms_recoveries", "How often the database went backwards", {"": float(recoveries)}, is_counter=True
    )
    yield Gauge(
        "sms_recovered_unknown",
        "Messages that became unknown because they had left in a gap",
        {"": float(unknown)},
        is_counter=True,
    )
    folders = float(len(unwritable(database, connection)))
    yield Gauge(
        "sms_witness_unwritable", "Machines that send nothing: WITNESS_DIR is not writable", {"": folders}
    )
    waiting = _count(connection, tables.forward_events, tables.TO_FORWARD)
    yield Gauge("sms_forward_waiting", "Events not yet accepted by FORWARD_URL", {"": waiting})
    failed = _count(connection, tables.forward_events, tables.NOT_FORWARDED)
    yield Gauge("sms_forward_failed", "Events that FORWARD_URL did not accept in two days", {"": failed})
    paused = _count(connection, tables.forward_state, tables.forward_state.c.paused_at.is_not(None))
    yield Gauge("sms_forward_paused", "Whether forwarding is paused", {"": paused})
    waiting = _count(connection, tables.callbacks, tables.RECEIVED)
    yield Gauge(
        "sms_received_callbacks", "Delivery reports that are stored and not applied yet", {"": waiting}
    )
    waited = received.oldest_wait(database, connection)
    yield Gauge(
        "sms_oldest_received_seconds",
        "Age of the oldest report that is not applied yet; 0 where there is none",
        {"": waited.total_seconds() if waited else 0.0},
    )
    yield from _worker_age(database, connection)


def _worker_age(database: Database, connection: Connection) -> Iterator[Gauge]:
    latest = connection.execute(select(func.max(tables.heartbeats.c.seen_at))).scalar()
    if latest is not None:
        age = (steady(connection, database.now(connection)) - latest).total_seconds()
        yield Gauge("sms_worker_seen_seconds_ago", "Age of the newest worker heartbeat", {"": age})


def _count(connection: Connection, table: Table, *conditions: ColumnElement[bool] | TextClause) -> float:
    statement = select(func.count()).select_from(table).where(*conditions)
    return float(connection.execute(statement).scalar_one())


def _count_by(connection: Connection, table: Table, column: ColumnElement[str]) -> dict[str, float]:
    statement = select(column, func.count()).select_from(table).group_by(column)
    return {value: float(number) for value, number in connection.execute(statement)}
