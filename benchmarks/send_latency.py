"""From `POST /v1/messages` to Africa's Talking: how long a single message waits, idle and beside a great batch.

Web, worker and simulator are real processes with the default pace, and the simulator takes 150 ms to answer, as
AT does. The clock starts before our POST and stops when the simulator notes the arrival of AT's; both are
this machine's. The batch is far from done when the last single has gone: that is checked.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import uniform
from statistics import median
from typing import Any

import requests
from sqlalchemy import func, select

from benchmarks.support.processes import (
    API_KEY,
    TIMEOUT_SECONDS,
    TOKEN,
    CannotMeasure,
    environment,
    free_port,
    gunicorn,
    running,
    wait_for,
)
from benchmarks.support.results import Result, Table
from benchmarks.support.stores import available_kinds, migrated_database, opened
from messaging import statuses
from messaging.storage import tables

SINGLES = 20
PAUSE_SECONDS = (0.1, 0.5)
BATCH_RECIPIENTS = 100_000
MOST_IN_A_CALL = 10_000
PROVIDER_SECONDS = 0.15
IDLE, BESIDE = "idle", "beside the batch"
TARGET_SECONDS = {IDLE: 1.0, BESIDE: 2.0}
CAMPAIGN = "A word to all of you"


@dataclass(frozen=True, slots=True)
class Stack:
    web_url: str
    simulator_url: str
    session: requests.Session

    def send(self, to: str | list[str], text: str) -> None:
        answer = self.session.post(
            f"{self.web_url}/v1/messages",
            json={"to": to, "text": text},
            headers={"Authorization": f"Bearer {API_KEY}"},
            timeout=TIMEOUT_SECONDS,
        )
        if answer.status_code != 202:
            raise CannotMeasure(f"POST /v1/messages answered {answer.status_code}: {answer.text[:300]}")

    def arrivals(self) -> dict[str, float]:
        """When AT got each text, in seconds since 1970."""
        url = f"{self.simulator_url}/_simulator/requests"
        items = self.session.get(url, params={"limit": 100_000}, timeout=TIMEOUT_SECONDS).json()["items"]
        return {item["text"]: item["arrived"] for item in reversed(items)}

    def answers(self, url: str) -> bool:
        try:
            return self.session.get(url, timeout=5).status_code == 200
        except requests.RequestException:
            return False


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [_table(measured)],
        {"stores": measured, "target_median_seconds": TARGET_SECONDS},
        [
            f"{SINGLES} single messages each, {PAUSE_SECONDS[0]} to {PAUSE_SECONDS[1]} s apart; default pace; the"
            f" simulator answers after {PROVIDER_SECONDS * 1000:.0f} ms",
            "measured from before our POST to the arrival of AT's POST at the simulator",
            *(
                f"{kind}: {one['still_queued']:,} of the batch's {BATCH_RECIPIENTS:,} were still queued at the end"
                for kind, one in measured.items()
            ),
        ],
    )


def _measure_store(kind: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        url = stack.enter_context(migrated_database(kind, folder))
        service = stack.enter_context(_running_service(url, folder))
        idle = _send_singles(service, IDLE)
        for recipients in _calls():
            service.send(recipients, CAMPAIGN)
        beside = _send_singles(service, BESIDE)
        still_queued = _count_queued(url)
    if not still_queued:
        raise CannotMeasure("the batch was done before the last single message was sent")
    return {IDLE: _figures(idle), BESIDE: _figures(beside), "still_queued": still_queued}


@contextmanager
def _running_service(database_url: str, folder: Path) -> Iterator[Stack]:
    web_port, simulator_port = free_port(), free_port()
    simulator_url, web_url = f"http://127.0.0.1:{simulator_port}", f"http://127.0.0.1:{web_port}"
    settings = environment(database_url, web_port, AT_BASE_URL=simulator_url)
    simulator = ["simulator", "--port", str(simulator_port), "--service-url", web_url, "--token", TOKEN]
    simulator += ["--database", str(folder / "simulator.db")]
    commands = {"simulator": simulator, "web": gunicorn("app:create_app()"), "worker": ["worker"]}
    with requests.Session() as session, ExitStack() as stack:
        session.trust_env = False
        service = Stack(web_url, simulator_url, session)
        logs = {name: folder / f"{name}.log" for name in commands}
        processes = {
            name: stack.enter_context(running(command, settings, logs[name]))
            for name, command in commands.items()
        }
        ready: dict[str, Callable[[], bool]] = {
            "simulator": lambda: service.answers(f"{simulator_url}/_simulator/ledger"),
            "web": lambda: service.answers(f"{web_url}/healthz?worker=1"),
        }
        for name, is_ready in ready.items():
            wait_for(is_ready, f"the start of {name}", processes[name], logs[name])
        faults = {"latency_seconds": PROVIDER_SECONDS}
        session.post(f"{simulator_url}/_simulator/faults", json=faults, timeout=10).raise_for_status()
        yield service


def _send_singles(service: Stack, label: str) -> list[float]:
    """Seconds each one took to AT."""
    started: dict[str, float] = {}
    for number in range(SINGLES):
        time.sleep(uniform(*PAUSE_SECONDS))
        text = f"{label} {number}"
        started[text] = time.time()
        service.send(f"+25472{number:05d}11", text)
    arrived = _wait_for_arrivals(service, set(started))
    return [arrived[text] - at for text, at in started.items()]


def _wait_for_arrivals(service: Stack, texts: set[str]) -> dict[str, float]:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while texts - (arrived := service.arrivals()).keys():
        if time.monotonic() > deadline:
            raise CannotMeasure(f"{len(texts - arrived.keys())} single messages never came to AT")
        time.sleep(0.1)
    return arrived


def _calls() -> Iterator[list[str]]:
    """The recipients, as many in a call as it takes. Their last digits ask the simulator for nothing special."""
    numbers = [f"+25471{number:05d}11" for number in range(BATCH_RECIPIENTS)]
    return (numbers[start : start + MOST_IN_A_CALL] for start in range(0, BATCH_RECIPIENTS, MOST_IN_A_CALL))


def _count_queued(url: str) -> int:
    query = select(func.count()).where(
        tables.messages.c.status == statuses.QUEUED, tables.messages.c.text == CAMPAIGN
    )
    with opened(url) as database, database.read() as connection:
        return int(connection.execute(query).scalar_one())


def _figures(seconds: list[float]) -> dict[str, float]:
    return {
        "median_seconds": median(seconds),
        "slowest_seconds": max(seconds),
        "quickest_seconds": min(seconds),
    }


def _table(measured: dict[str, Any]) -> Table:
    rows = [
        [
            f"{kind}, {when}",
            f"{figures[when]['median_seconds']:.2f}",
            f"{target:.1f}",
            f"{figures[when]['quickest_seconds']:.2f}",
            f"{figures[when]['slowest_seconds']:.2f}",
        ]
        for kind, figures in measured.items()
        for when, target in TARGET_SECONDS.items()
    ]
    columns = ["", "median s", "target", "quickest", "slowest"]
    return Table("From POST /v1/messages to AT's POST, one message", columns, rows)
