"""Reports that come while something else is done: their figures, and a table of them beside their idle rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import func, select

from benchmarks.support.applied import wait_until_applied
from benchmarks.support.books import report_body
from benchmarks.support.contests import Server
from benchmarks.support.load import Connections, Slice, http_post, percentile
from benchmarks.support.processes import TOKEN, CannotMeasure
from benchmarks.support.results import Table
from benchmarks.support.stores import opened
from messaging import statuses
from messaging.storage import tables

CONNECTIONS = 8
WARM_UP, IDLE_REPORTS = 500, 4000
BEFORE, AFTER = "idle, before", "idle, after"
AIM, AIM_P99_MS = 0.5, 100
AIMS = {"of_idle": AIM, "p99_ms": AIM_P99_MS}
FORM = "application/x-www-form-urlencoded"
PATH = f"/sms/delivery-reports?token={TOKEN}"

Outcome = TypeVar("Outcome")


class Beside(NamedTuple):
    """`reports`: how many were answered, those that warmed up among them."""

    slices: dict[str, Slice]
    reports: int


def send_beside(
    web: Server, provider_ids: list[str], during: str, work: Callable[[], Outcome]
) -> tuple[Beside, Outcome]:
    """Reports without a pause while `work` is done, and at the idle rate before and after."""
    supply = (http_post(PATH, report_body(one), FORM) for one in provider_ids)
    connections = Connections(web.port, CONNECTIONS, web.web_processes)
    try:
        warm_up = connections.send_all(islice(supply, WARM_UP))
        slices = {BEFORE: connections.send_all(islice(supply, IDLE_REPORTS))}
        with ThreadPoolExecutor(1) as aside:
            working = aside.submit(work)
            slices[during] = connections.send_all(_until_done(supply, working))
            result = working.result()
        slices[AFTER] = connections.send_all(islice(supply, IDLE_REPORTS))
    finally:
        connections.close()
    return Beside(slices, warm_up.answered + sum(one.answered for one in slices.values())), result


def _until_done(supply: Iterator[bytes], working: Future[Any]) -> Iterator[bytes]:
    while not working.done() and (request := next(supply, None)) is not None:
        yield request


def require_all_delivered(url: str, expected: int) -> None:
    query = (
        select(func.count())
        .select_from(tables.messages)
        .where(tables.messages.c.status == statuses.DELIVERED)
    )
    with opened(url) as database:
        wait_until_applied(database)
        with database.read() as connection:
            found = connection.execute(query).scalar_one()
    if found != expected:
        raise CannotMeasure(f"{expected} reports were answered, but {found} messages are delivered")


def figures_of(slices: dict[str, Slice], during: str) -> dict[str, Any]:
    """`of_idle`: beside the mean of the idle rates before and after."""
    idle = (slices[BEFORE].per_second + slices[AFTER].per_second) / 2
    return {
        "load": {when: _load_figures(one) for when, one in slices.items()},
        "of_idle": slices[during].per_second / idle,
    }


def _load_figures(one: Slice) -> dict[str, float]:
    return {
        "per_second": one.per_second,
        "seconds": one.seconds,
        "p50_ms": percentile(one.latencies, 50),
        "p99_ms": percentile(one.latencies, 99),
        "slowest_ms": one.latencies[-1],
    }


def table_of(title: str, measured: dict[str, Any], during: str) -> Table:
    rows = [
        [
            f"{kind}, {when}",
            f"{load['per_second']:,.0f}",
            f"{load['seconds']:.0f}",
            f"{load['p50_ms']:.1f}",
            f"{load['p99_ms']:.1f}" + (f", aim {AIM_P99_MS}" if when == during else ""),
            f"{load['slowest_ms']:.0f}",
            f"{figures['of_idle']:.2f}, aim {AIM}" if when == during else "",
        ]
        for kind, figures in measured.items()
        for when, load in figures["load"].items()
    ]
    columns = ["", "reports/s", "for s", "p50 ms", "p99 ms", "slowest ms", "of idle"]
    return Table(title, columns, rows)
