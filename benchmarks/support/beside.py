"""Reports that come while something else is done: their figures, and a table of them beside their idle rate."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from benchmarks.support.applied import wait_until_applied
from benchmarks.support.load import Slice, percentile
from benchmarks.support.processes import CannotMeasure
from benchmarks.support.results import Table
from benchmarks.support.stores import opened
from messaging import statuses
from messaging.storage import tables

CONNECTIONS = 8
WARM_UP, IDLE_REPORTS = 500, 4000
BEFORE, AFTER = "idle, before", "idle, after"
AIM, AIM_P99_MS = 0.5, 100


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
