"""The numbers that `/metrics` shows, read from the database at the moment of asking: true for all processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, Table, TextClause, func, select

from messaging import statuses
from messaging.access.key_throttle import NAME as REFUSED_KEYS
from messaging.callbacks import received
from messaging.callbacks.refused import NAME as REFUSED
from messaging.costs.balance import BALANCE, BALANCE_AT
from messaging.messages import status_counts
from messaging.operations import counts
from messaging.operations.counts import ANSWERED
from messaging.operations.held import count_held
from messaging.operations.recovery_views import open_recovery, totals, unwritable
from messaging.sending import due
from messaging.storage import counters, tables
from messaging.storage.clocks import by_wall, steady, wall_clock
from messaging.storage.database import Database
from utils.version import VERSION

# Counting a million queued rows takes a tenth of a second. A count that took long is kept for twenty times
# as long, so that asking often never costs more than a twentieth of one core.
KEPT_FACTOR = 20
CHEAP_SECONDS = 0.05
# One that ended is shown for so long.
WORKER_SHOWN = timedelta(hours=1)
COUNTER: Final = "counter"
MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Gauge:
    """`value` by the values of `label`; a gauge without label has one entry under ''.

    A histogram has, by the upper end of each step, how many are up to there.
    """

    name: str
    help: str
    values: dict[str, float]
    label: str | None = None
    kind: Literal["gauge", "counter", "histogram"] = "gauge"
    # Of a histogram; None: nobody knows.
    sum: float | None = None


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
                self._kept = list(_gauges(connection))
            took = time.monotonic() - began
            self._kept_until = time.monotonic() + (took * KEPT_FACTOR if took > CHEAP_SECONDS else 0)
            return self._kept


def _gauges(connection: Connection) -> Iterator[Gauge]:
    yield Gauge("sms_build_info", "The release that answers", {VERSION: 1.0}, "version")
    counted = counters.read_all(connection)
    yield from _from_counters(counted)
    messages = tables.messages
    for name, meaning, condition in (
        ("sms_queue_depth", "Messages waiting to be sent", (tables.QUEUED,)),
        ("sms_sending", "Messages that a worker has claimed", (tables.SENDING,)),
        # In the words of its index.
        (
            "sms_unknown",
            "Messages whose outcome is unknown",
            (tables.UNSETTLED, messages.c.status == "unknown"),
        ),
    ):
        yield Gauge(name, meaning, {"": _count(connection, messages, *condition)})
    longest = due.longest_wait(connection, wall_clock(connection)).total_seconds()
    yield Gauge(
        "sms_oldest_queued_seconds", "For how long the first text that may go has been due", {"": longest}
    )
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
        refused = float(counted.get(name, 0))
        yield Gauge(f"sms_{name}", meaning, {"": refused}, kind=COUNTER)
    yield Gauge(
        "sms_pauses", "Pauses in force (account or sender id)", {"": _count(connection, tables.pauses)}
    )
    recoveries, unknown = totals(connection)
    is_open = open_recovery(connection) is not None
    yield Gauge("sms_recovering", "Whether a recovery is open, so that nothing is sent", {"": float(is_open)})
    yield Gauge(
        "sms_recoveries", "How often the database went backwards", {"": float(recoveries)}, kind=COUNTER
    )
    yield Gauge(
        "sms_recovered_unknown",
        "Messages that became unknown because they had left in a gap",
        {"": float(unknown)},
        kind=COUNTER,
    )
    folders = float(len(unwritable(connection)))
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
    waited = received.oldest_wait(connection)
    yield Gauge(
        "sms_oldest_received_seconds",
        "Age of the oldest report that is not applied yet; 0 where there is none",
        {"": waited.total_seconds() if waited else 0.0},
    )
    yield from _of_workers(connection)


def _from_counters(counted: Mapping[str, int]) -> Iterator[Gauge]:
    """What sweeps have added up: a minute or two old."""
    totals = dict.fromkeys(statuses.ALL, 0.0) | _named(counted, status_counts.TOTAL)
    yield Gauge("sms_messages", "Messages that came to a status", totals, "status", COUNTER)
    parts = float(counted.get(status_counts.TOTAL_PARTS, 0))
    yield Gauge("sms_parts", "Parts that AT billed", {"": parts}, kind=COUNTER)
    costs = {name: value / MICROS for name, value in _named(counted, status_counts.TOTAL_MICROS).items()}
    yield Gauge("sms_cost", "What AT billed, in units of the currency", costs, "currency", COUNTER)
    yield Gauge(
        "sms_delivery_seconds",
        "From AT's acceptance to the report of a delivery",
        _histogram(counted, status_counts.TOTAL_STEP, status_counts.DELAYS, first=1),
        "le",
        "histogram",
    )
    posts = {ANSWERED: 0.0} | _named(counted, counts.POSTS)
    yield Gauge("sms_posts", "POSTs to AT by what they came to", posts, "result", COUNTER)
    yield Gauge(
        "sms_answer_seconds",
        "How long AT took to answer a POST",
        _histogram(counted, counts.ANSWER_STEP, counts.ANSWER_STEPS),
        "le",
        "histogram",
        sum=counted.get(counts.ANSWER_MICROS, 0) / MICROS,
    )
    last = _named(counted, counts.LAST_CALLBACK)
    yield Gauge("sms_last_callback_timestamp_seconds", "When the last callback came", last, "kind")
    balances = {name: value / MICROS for name, value in _named(counted, BALANCE).items()}
    yield Gauge("sms_balance", "Of the account at AT, as it was asked for last", balances, "currency")
    asked = _named(counted, BALANCE_AT)
    yield Gauge("sms_balance_timestamp_seconds", "When the balance was asked for", asked, "currency")


def _named(counted: Mapping[str, int], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): float(value)
        for name, value in sorted(counted.items())
        if name.startswith(prefix)
    }


def _histogram(
    counted: Mapping[str, int], prefix: str, ends: Sequence[float], first: int = 0
) -> dict[str, float]:
    """`first`: the number of the first step."""
    numbers = accumulate(float(counted.get(f"{prefix}{first + place}", 0)) for place in range(len(ends) + 1))
    return dict(zip([*(str(float(end)) for end in ends), "+Inf"], numbers, strict=True))


def _of_workers(connection: Connection) -> Iterator[Gauge]:
    last_seen = {name: at.timestamp() for name, at in worker_beats(connection).items()}
    yield Gauge(
        "sms_worker_last_seen_timestamp_seconds", "The last heartbeat of a worker", last_seen, "worker"
    )
    in_flight = dict.fromkeys(last_seen, 0.0)
    posting = tables.OPEN, tables.attempts.c.state == "posting"
    for worker in connection.execute(select(tables.attempts.c.worker).where(*posting)).scalars():
        in_flight[_process(worker)] = in_flight.get(_process(worker), 0.0) + 1
    yield Gauge("sms_posts_in_flight", "POSTs that wait for AT's answer", in_flight, "worker")


def worker_beats(connection: Connection) -> dict[str, datetime]:
    """When each process was seen last, of those seen within the last hour."""
    now = steady(connection, wall_clock(connection))
    beats = tables.heartbeats.c
    lately = select(beats.worker, beats.seen_at).where(beats.seen_at > now - WORKER_SHOWN)
    rows = connection.execute(lately.order_by(beats.seen_at))
    return {_process(row.worker): by_wall(connection, row.seen_at) for row in rows}


def _process(worker: str) -> str:
    """Its host and its number; a thread of its own has a third word."""
    return ":".join(worker.split(":")[:2])


def _count(connection: Connection, table: Table, *conditions: ColumnElement[bool] | TextClause) -> float:
    statement = select(func.count()).select_from(table).where(*conditions)
    return float(connection.execute(statement).scalar_one())
