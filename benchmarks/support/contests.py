"""Web servers measured beside each other: the same requests to one after the other, round after round.

What disturbs the machine then hits all alike, and the ratios within a round say more than the figures do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.load import OK, Connections, Slice, percentile
from benchmarks.support.processes import (
    children,
    environment,
    free_port,
    gunicorn,
    listens,
    peak_memory_mb,
    processor_seconds,
    running,
    wait_for,
)
from benchmarks.support.results import Spread

Requests = dict[str, list[bytes]]


@dataclass(frozen=True, slots=True)
class Taken:
    """What one server made of its part of a round; `processor_us`: of its web processes, for one request.

    `helper_us`: of its helpers, which have finished.
    """

    slice: Slice
    processor_us: float
    helper_us: float = 0.0


Round = dict[str, Taken]


def _finished() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    port: int
    process_id: int
    concurrency: int
    # Another process that does a part of the work, and the wait until it has.
    helper_ids: tuple[int, ...] = ()
    finish: Callable[[], None] = _finished

    @property
    def web_processes(self) -> list[int]:
        """Without the one that only starts them."""
        return children(self.process_id)

    def is_up(self) -> bool:
        return listens(self.port) and len(self.web_processes) == self.concurrency

    def peak_memory_mb(self) -> float:
        return max(peak_memory_mb(one) for one in self.web_processes)

    def processor_seconds(self) -> float:
        return sum(processor_seconds(one) for one in self.web_processes)

    def helper_seconds(self) -> float:
        return sum(processor_seconds(one) for one in self.helper_ids)


@contextmanager
def serving(name: str, app: str, database_url: str, folder: Path) -> Iterator[Server]:
    port, log = free_port(), folder / f"{name}.log"
    settings = environment(database_url, port)
    with running(gunicorn(app), settings, log) as process:
        server = Server(name, port, process.pid, int(settings["WEB_CONCURRENCY"]))
        wait_for(server.is_up, f"the start of {name}", process, log)
        yield server


def play(
    servers: Sequence[Server],
    connection_count: int,
    make_requests: Callable[[], Requests],
    rounds: int,
    expected: bytes = OK,
) -> list[Round]:
    """`make_requests` gives each round's, by server name. The first round is not counted."""
    with ExitStack() as stack:
        pairs = [(one, Connections(one.port, connection_count, one.web_processes)) for one in servers]
        for _, connections in pairs:
            stack.callback(connections.close)
        played = [_play_round(pairs, make_requests(), expected) for _ in range(rounds + 1)]
    return played[1:]


def _play_round(pairs: Sequence[tuple[Server, Connections]], requests: Requests, expected: bytes) -> Round:
    return {
        server.name: _take(server, connections, requests[server.name], expected)
        for server, connections in pairs
    }


def _take(server: Server, connections: Connections, requests: list[bytes], expected: bytes) -> Taken:
    web, helpers = server.processor_seconds(), server.helper_seconds()
    taken = connections.send_all(requests, expected)
    # Its helpers would take the processor from the next server.
    server.finish()
    return Taken(
        taken,
        (server.processor_seconds() - web) / taken.answered * 1e6,
        (server.helper_seconds() - helpers) / taken.answered * 1e6,
    )


def figures_of(rounds: Sequence[Round], name: str) -> dict[str, Any]:
    taken = [one[name] for one in rounds]
    latencies = [latency for one in taken for latency in one.slice.latencies]
    return {
        "per_second": Spread.of([one.slice.per_second for one in taken]).as_json(),
        "p50_ms": percentile(latencies, 50),
        "p99_ms": percentile(latencies, 99),
        "processor_us": Spread.of([one.processor_us for one in taken]).as_json(),
        "helper_us": Spread.of([one.helper_us for one in taken]).as_json(),
    }


def ratio_of(rounds: Sequence[Round], name: str, yardstick: str) -> dict[str, float]:
    """How many a second of `name` for one of `yardstick`, in the same round."""
    ratios = [one[name].slice.per_second / one[yardstick].slice.per_second for one in rounds]
    return Spread.of(ratios).as_json()
