"""A worker of ours and the bare loop on one stage: the same numbers, the same provider, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.support import queued
from benchmarks.support.bare_sender import Plan, Taken
from benchmarks.support.processes import (
    CannotMeasure,
    environment,
    free_port,
    listens,
    peak_memory_mb,
    processor_seconds,
    running,
    wait_for,
)
from benchmarks.support.provider import Manners, Seen
from benchmarks.support.queued import Held, hold_batch, set_batch
from benchmarks.support.results import Spread
from benchmarks.support.stores import migrated_database, opened
from messaging import statuses
from messaging.operations import health
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from utils.setting_types import REPOSITORY

PER_POST = 500
FIRST_NUMBER = 254_700_000_000
UNPACED = "1000000"
NOTHING: Mapping[str, str] = {}
STALLED_SECONDS = 60.0
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Sent:
    """One stretch of sending, by either side."""

    messages: int
    seconds: float
    processor_seconds: float

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds

    @property
    def processor_us(self) -> float:
        return self.processor_seconds / self.messages * 1e6


Round = dict[str, Sent]


def figures_of(rounds: Sequence[Round], name: str) -> dict[str, Any]:
    return {
        "per_second": Spread.of([one[name].per_second for one in rounds]).as_json(),
        "processor_us": Spread.of([one[name].processor_us for one in rounds]).as_json(),
    }


def ratio_of(rounds: Sequence[Round], name: str, yardstick: str) -> dict[str, float]:
    """How many a second of `name` for one of `yardstick`, in the same round."""
    return Spread.of([one[name].per_second / one[yardstick].per_second for one in rounds]).as_json()


@dataclass(frozen=True, slots=True)
class ProviderProcess:
    url: str
    session: requests.Session

    def begin(self, manners: Manners) -> None:
        """Forgets what it has seen."""
        self.session.post(f"{self.url}/begin", json=asdict(manners), timeout=10).raise_for_status()

    def seen(self) -> Seen:
        return Seen(**self.session.get(f"{self.url}/seen", timeout=30).json())

    def progress(self) -> int:
        seen = self.seen()
        return seen.recipients + seen.reported

    def require_each_once(self, first: int, count: int) -> None:
        """Raises CannotMeasure where a number got no text, or two."""
        seen, wanted = self.seen(), sum(range(first, first + count))
        if (seen.recipients, seen.distinct, seen.digits_sum) != (count, count, wanted):
            raise CannotMeasure(f"{count} numbers should have got one text each, but the provider saw {seen}")


@dataclass(slots=True)
class Stage:
    """One store, a worker on it, the provider. `next_number` was never texted."""

    database: Database
    settings: dict[str, str]
    worker_id: int
    provider: ProviderProcess
    lanes: int
    next_number: int = FIRST_NUMBER

    def worker_seconds(self) -> float:
        return processor_seconds(self.worker_id)

    def worker_peak_memory_mb(self) -> float:
        return peak_memory_mb(self.worker_id)

    def hold(self, count: int, texts: int = 1) -> Held:
        first = self.next_number
        self.next_number += count
        return hold_batch(self.database, first, count, texts)

    def send(self, count: int, texts: int = 1, latency_seconds: float = 0.0) -> tuple[Sent, Held]:
        """By the worker: from its first claim until nothing is queued or under way. `texts`: see `hold_batch`."""
        held = self.hold(count, texts)
        self.provider.begin(Manners(latency_seconds))
        processor = self.worker_seconds()
        set_batch(self.database, held.batch_id, "sending")
        seconds = self._wait_for_records(held, count)
        sent = Sent(count, seconds, self.worker_seconds() - processor)
        self.provider.require_each_once(held.first, count)
        queued.require_all(self.database, held, "accepted")
        return sent, held

    def send_beginning(self, held: Held, count: int) -> Sent:
        """At least `count` of the batch, which is paused then: what was claimed by that time goes too, or back."""
        self.provider.begin(Manners())
        processor = self.worker_seconds()
        set_batch(self.database, held.batch_id, "sending")
        wait_until(lambda: self.provider.seen().recipients >= count, "its POSTs", self.provider.progress)
        set_batch(self.database, held.batch_id, "paused")
        seconds = self._wait_for_records(held, count)
        used, seen = self.worker_seconds() - processor, self.provider.seen()
        if seen.recipients != seen.distinct:
            raise CannotMeasure(f"the provider saw a number twice: {seen}")
        left = {statuses.QUEUED: held.count - seen.recipients, statuses.ACCEPTED: seen.recipients}
        # A claim that read the batch before its pause may commit after the last record, and gives its rows back.
        wait_until(
            lambda: self._count_by_status(held) == left, f"{left}", lambda: self._count_by_status(held)
        )
        return Sent(seen.recipients, seconds, used)

    def send_bare(self, first: int, count: int, *, own_texts: bool = False) -> tuple[Sent, Taken]:
        """By the bare loop, in a process of its own as the worker is one. The caller has told the provider."""
        plan = Plan(self.provider.url, first, count, PER_POST, self.lanes, own_texts)
        taken = _run_bare(plan, self.settings)
        self.provider.require_each_once(first, count)
        return Sent(count, taken.seconds, taken.processor_seconds), taken

    def _wait_for_records(self, held: Held, count: int) -> float:
        wait_until(lambda: self.provider.seen().recipients >= count, "all POSTs", self.provider.progress)
        wait_until(lambda: not self._count_open(), "all records", self._count_open)
        return (utc_now() - queued.first_claim(self.database, held)).total_seconds()

    def _count_by_status(self, held: Held) -> dict[str, int]:
        return queued.count_by_status(self.database, held)

    def _count_open(self) -> int:
        return queued.count_open(self.database)


@contextmanager
def staged(kind: str, lanes: int, overrides: Mapping[str, str] = NOTHING) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        url = stack.enter_context(migrated_database(kind, folder))
        database = stack.enter_context(opened(url))
        provider = stack.enter_context(_running_provider(folder))
        chosen = {
            "AT_BASE_URL": provider.url,
            "AT_MAX_REQUESTS_PER_SECOND": UNPACED,
            "AT_MAX_MESSAGES_PER_SECOND": UNPACED,
            "AT_MAX_RECIPIENTS": str(PER_POST),
            "WORKER_CONCURRENCY": str(lanes),
        }
        settings = environment(url, free_port(), **(chosen | dict(overrides)))
        log = folder / "worker.log"
        worker = stack.enter_context(running(["worker"], settings, log))
        wait_for(lambda: health.is_worker_alive(database), "the start of the worker", worker, log)
        yield Stage(database, settings, worker.pid, provider, lanes)


@contextmanager
def _running_provider(folder: Path) -> Iterator[ProviderProcess]:
    port, log = free_port(), folder / "provider.log"
    command = ["benchmarks.support.provider", str(port)]
    with running(command, dict(os.environ), log) as process, requests.Session() as session:
        session.trust_env = False
        wait_for(lambda: listens(port), "the start of the provider", process, log)
        yield ProviderProcess(f"http://127.0.0.1:{port}", session)


def wait_until(look: Callable[[], bool], what: str, progress: Callable[[], object]) -> None:
    """Raises CannotMeasure where nothing moves any more."""
    last, deadline = progress(), time.monotonic() + STALLED_SECONDS
    while not look():
        now = progress()
        if now != last:
            last, deadline = now, time.monotonic() + STALLED_SECONDS
        if time.monotonic() > deadline:
            raise CannotMeasure(f"waited for {what}, but nothing moves: {last}")
        time.sleep(LOOK_SECONDS)


def _run_bare(plan: Plan, settings: dict[str, str]) -> Taken:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.support.bare_sender"],
        input=json.dumps(asdict(plan)),
        cwd=REPOSITORY,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotMeasure(f"the bare loop failed: {done.stderr[-2000:]}")
    return Taken(**json.loads(done.stdout))
