"""From a delivery report's arrival to its message's status, at 500 reports a second while 100,000 messages leave.

Web, worker and provider are real processes. The reports are of messages that AT accepted before; the batch is sent at
a pace at which it is not done before the last report: that is checked. Of every twenty-five reports one is watched:
the clock starts before our POST and stops when a look at the database finds its message delivered.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import select

from benchmarks.support.applied import wait_until_applied
from benchmarks.support.books import fill, report_body
from benchmarks.support.contests import Server, serving
from benchmarks.support.load import Connections, http_post, percentile
from benchmarks.support.processes import TOKEN, CannotMeasure
from benchmarks.support.provider import Manners
from benchmarks.support.queued import set_batch
from benchmarks.support.results import Result, Table
from benchmarks.support.stages import Stage, staged
from benchmarks.support.stores import available_kinds
from messaging import statuses
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.database import Database

LANES = 4
HISTORY = 10_000
BATCH = 100_000
MESSAGES_PER_SECOND = "4000"
PROVIDER_SECONDS = 0.2
REPORTS_PER_SECOND = 500
REPORTS = 6_000
WATCHED_OF = 25
CONNECTIONS = 8
LOOK_SECONDS = 0.01
GIVEN_UP_SECONDS = 30.0
AIM_MS = 200
FORM = "application/x-www-form-urlencoded"
PATH = f"/sms/delivery-reports?token={TOKEN}"

_DELIVERED = select(tables.messages.c.provider_message_id).where(
    one_of(tables.messages.c.provider_message_id, "ids"), tables.messages.c.status == statuses.DELIVERED
)


class Watch(threading.Thread):
    """Notes when each watched message is first seen delivered."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._sent: dict[str, float] = {}
        self._is_over = threading.Event()
        self.milliseconds: list[float] = []

    def expect(self, provider_id: str) -> None:
        self._sent[provider_id] = time.monotonic()

    def run(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            if self._sent:
                self._look()

    def _look(self) -> None:
        with self._database.read() as connection:
            found = list(connection.execute(_DELIVERED, {"ids": list(self._sent)}).scalars())
        now = time.monotonic()
        self.milliseconds += [1000 * (now - self._sent.pop(one)) for one in found]

    def finish(self) -> list[float]:
        """Raises CannotMeasure where a message was never seen delivered."""
        deadline = time.monotonic() + GIVEN_UP_SECONDS
        while self._sent and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        self._is_over.set()
        self.join(GIVEN_UP_SECONDS)
        if self._sent:
            raise CannotMeasure(f"{len(self._sent)} reports were answered and never took effect")
        return sorted(self.milliseconds)


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [_table(measured)],
        {"stores": measured, "aims": {"median_ms": AIM_MS}},
        [
            f"{REPORTS:,} reports, {REPORTS_PER_SECOND} a second over {CONNECTIONS} connections, one in {WATCHED_OF}"
            f" watched by a look each {LOOK_SECONDS * 1000:.0f} ms",
            f"meanwhile a batch of {BATCH:,} leaves, {MESSAGES_PER_SECOND} a second; the provider answers after"
            f" {PROVIDER_SECONDS * 1000:.0f} ms",
            *(
                f"{kind}: {one['still_unsent']:,} of the batch had not left when the last report took effect"
                for kind, one in measured.items()
            ),
        ],
    )


def _measure_store(kind: str) -> dict[str, Any]:
    pace = {"AT_MAX_MESSAGES_PER_SECOND": MESSAGES_PER_SECOND}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        stage = stack.enter_context(staged(kind, LANES, pace))
        url = stage.settings["DATABASE_URL"]
        ids = fill(url, HISTORY, REPORTS)
        web = stack.enter_context(serving("service", "app:create_app()", url, Path(temporary)))
        held = stage.hold(BATCH)
        stage.provider.begin(Manners(PROVIDER_SECONDS))
        set_batch(stage.database, held.batch_id, "sending")
        processor = stage.worker_seconds() + web.processor_seconds()
        milliseconds = _report(stage, web, ids)
        used = stage.worker_seconds() + web.processor_seconds() - processor
        still_unsent = BATCH - stage.provider.seen().recipients
    if still_unsent <= 0:
        raise CannotMeasure("the batch was sent before the last report took effect")
    return {
        "median_ms": median(milliseconds),
        "p99_ms": percentile(milliseconds, 99),
        "slowest_ms": milliseconds[-1],
        "processor_seconds": used,
        "still_unsent": still_unsent,
    }


def _report(stage: Stage, web: Server, ids: Sequence[str]) -> list[float]:
    connections = Connections(web.port, CONNECTIONS, web.web_processes)
    watch = Watch(stage.database)
    watch.start()
    try:
        connections.send_all(_paced(ids, watch))
    finally:
        connections.close()
    found = watch.finish()
    wait_until_applied(stage.database)
    return found


def _paced(ids: Sequence[str], watch: Watch) -> Iterator[bytes]:
    """The load generator asks for the next one when a connection is free: it is kept waiting for its time."""
    began = time.monotonic()
    for place, provider_id in enumerate(ids):
        time.sleep(max(0.0, began + place / REPORTS_PER_SECOND - time.monotonic()))
        if place % WATCHED_OF == 0:
            watch.expect(provider_id)
        yield http_post(PATH, report_body(provider_id), FORM)


def _table(measured: dict[str, Any]) -> Table:
    rows = [
        [
            kind,
            f"{figures['median_ms']:.0f}, aim {AIM_MS}",
            f"{figures['p99_ms']:.0f}",
            f"{figures['slowest_ms']:.0f}",
        ]
        for kind, figures in measured.items()
    ]
    return Table("From a report to its status", ["", "median ms", "p99 ms", "slowest ms"], rows)
