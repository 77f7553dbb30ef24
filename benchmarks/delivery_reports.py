"""Durable delivery reports per second, beside a Flask route that only parses the form and one that also INSERTs.

All three stand on the same gunicorn with the service's own configuration. Every report is the first for a
message that AT accepted, so each one is journaled and answered, and beside it a worker finds its message and moves it
to `delivered`; the next server's turn begins when it has done so, and afterwards the database is asked whether all
of them did.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.support import yardsticks
from benchmarks.support.applied import applying_worker, wait_until_applied
from benchmarks.support.books import fill, report_body
from benchmarks.support.contests import Requests, Server, figures_of, play, ratio_of, serving
from benchmarks.support.load import http_post
from benchmarks.support.processes import TOKEN, CannotMeasure
from benchmarks.support.results import Result, Spread, Table
from benchmarks.support.stores import available_kinds, empty_database, migrated_database, opened
from messaging import statuses
from messaging.callbacks import journal
from messaging.messages import report_effects
from messaging.storage import tables

CONNECTIONS = (8, 32)
ROUNDS = 5
REPORTS_IN_A_ROUND = 1200
HISTORY = 10_000
FORM = "application/x-www-form-urlencoded"
SERVICE, PLAIN, INSERTING = "service", "form", "insert"
APPS = {
    SERVICE: "app:create_app()",
    PLAIN: "benchmarks.support.yardsticks:create_form_app()",
    INSERTING: "benchmarks.support.yardsticks:create_insert_app()",
}
PATHS = {
    SERVICE: f"/sms/delivery-reports?token={TOKEN}",
    PLAIN: f"/delivery-reports?token={TOKEN}",
    INSERTING: f"/delivery-reports?token={TOKEN}",
}
AIMS = {PLAIN: 0.55, INSERTING: 0.85}
# Of the route that INSERTs.
MOST_P99 = 1.5
# Of web and worker together, for one report.
MOST_PROCESSOR_US = 500


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [_table(kind, figures) for kind, figures in measured.items()],
        {
            "stores": measured,
            "aims": {f"of_{name}": aim for name, aim in AIMS.items()}
            | {"p99_of_insert": MOST_P99, "web_and_worker_us": MOST_PROCESSOR_US},
        },
        [
            "form: a bare Flask route parses the same form and answers; insert: it also does one bare INSERT in a"
            " shared commit",
            f"{ROUNDS} rounds of {REPORTS_IN_A_ROUND} reports to each of the three in turn; medians, in brackets the"
            " lowest and the highest round",
            "the client, PostgreSQL, and the worker that applies the service's reports share the same cores",
            *(
                f"{kind}: {one['verified']} reports answered, as many journaled and applied, as many messages delivered"
                for kind, one in measured.items()
            ),
        ],
    )


def _measure_store(kind: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        url = stack.enter_context(migrated_database(kind, folder))
        bare_url = stack.enter_context(_bare_database(kind, folder))
        ids = fill(url, HISTORY, len(CONNECTIONS) * (ROUNDS + 1) * REPORTS_IN_A_ROUND)
        urls = {SERVICE: url, PLAIN: bare_url, INSERTING: bare_url}
        database = stack.enter_context(opened(url))
        worker_id = stack.enter_context(applying_worker(database, url, folder))
        servers = [stack.enter_context(serving(name, APPS[name], urls[name], folder)) for name in APPS]
        finish = partial(wait_until_applied, database)
        servers[0] = replace(servers[0], helper_ids=(worker_id,), finish=finish)
        supply = iter(ids)
        by_connections = {str(count): _measure_load(servers, count, supply) for count in CONNECTIONS}
        memory = {server.name: server.peak_memory_mb() for server in servers}
        _require_all_delivered(url, HISTORY + len(ids))
    return {"connections": by_connections, "peak_memory_mb": memory, "verified": len(ids)}


@contextmanager
def _bare_database(kind: str, folder: Path) -> Iterator[str]:
    (folder / "bare").mkdir()
    with empty_database(kind, folder / "bare") as url:
        with opened(url) as database:
            yardsticks.metadata.create_all(database.engine)
        yield url


def _measure_load(servers: Sequence[Server], count: int, supply: Iterator[str]) -> dict[str, Any]:
    rounds = play(servers, count, lambda: _requests(supply), ROUNDS)
    figures = {name: figures_of(rounds, name) for name in APPS}
    figures["p99_of_insert"] = figures[SERVICE]["p99_ms"] / figures[INSERTING]["p99_ms"]
    both = [one[SERVICE].processor_us + one[SERVICE].helper_us for one in rounds]
    figures["web_and_worker_us"] = Spread.of(both).as_json()
    return figures | {f"of_{name}": ratio_of(rounds, SERVICE, name) for name in AIMS}


def _requests(supply: Iterator[str]) -> Requests:
    bodies = [report_body(next(supply)) for _ in range(REPORTS_IN_A_ROUND)]
    return {name: [http_post(path, body, FORM) for body in bodies] for name, path in PATHS.items()}


def _require_all_delivered(url: str, expected: int) -> None:
    """Raises CannotMeasure where a report was answered and not applied."""
    is_delivered = statuses.DELIVERED
    queries = {
        "journaled": select(func.count()).where(tables.callbacks.c.outcome == journal.APPLIED),
        "applied": select(func.count()).where(tables.delivery_reports.c.effect == report_effects.MOVED),
        "delivered": select(func.count()).where(tables.messages.c.status == is_delivered),
        "in the history": select(func.count()).where(tables.message_events.c.status == is_delivered),
    }
    with opened(url) as database, database.read() as connection:
        found = {what: connection.execute(query).scalar_one() for what, query in queries.items()}
    if set(found.values()) != {expected}:
        raise CannotMeasure(f"{expected} reports were answered, but of them are {found}")


def _table(kind: str, measured: dict[str, Any]) -> Table:
    rows = [
        [
            f"{name}, {count} connections",
            f"{figures[name]['per_second']['median']:,.0f}",
            f"{figures[name]['p50_ms']:.1f}",
            f"{figures[name]['p99_ms']:.1f}" + _p99(figures, name),
            _ratio(figures, name),
            _processor(figures, name),
            f"{measured['peak_memory_mb'][name]:.0f}",
        ]
        for count, figures in measured["connections"].items()
        for name in APPS
    ]
    columns = ["", "per second", "p50 ms", "p99 ms", "service / this", "CPU µs each", "peak MB"]
    return Table(f"Delivery reports, {kind}", columns, rows)


def _p99(figures: dict[str, Any], name: str) -> str:
    is_ours = name == SERVICE
    return f" ({figures['p99_of_insert']:.2f} of insert, aim {MOST_P99})" if is_ours else ""


def _processor(figures: dict[str, Any], name: str) -> str:
    web = f"{figures[name]['processor_us']['median']:,.0f}"
    if name != SERVICE:
        return web
    together = figures["web_and_worker_us"]["median"]
    return f"{web}, with the worker {together:,.0f}, aim {MOST_PROCESSOR_US}"


def _ratio(figures: dict[str, Any], name: str) -> str:
    if name not in AIMS:
        return ""
    return f"{Spread(**figures[f'of_{name}']).as_text()}, aim {AIMS[name]}"
