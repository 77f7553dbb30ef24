"""Queued, POST, report received, `delivered`: the real web and worker processes beside a loop that remembers nothing.

The provider posts a report of every text back at once, over connections that stay open. Ours runs from the worker's
first claim until the last report has taken effect; then every message has to be `delivered`. The bare loop does the
same POSTs, and a Flask route that only parses the form answers the same reports on the same gunicorn.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.support.applied import wait_until_applied
from benchmarks.support.contests import Server, serving
from benchmarks.support.processes import TOKEN, CannotMeasure
from benchmarks.support.provider import Manners
from benchmarks.support.queued import first_claim, require_all, set_batch
from benchmarks.support.results import Result, Spread, Table
from benchmarks.support.stages import PER_POST, Sent, Stage, figures_of, ratio_of, staged, wait_until
from benchmarks.support.stores import available_kinds

LANES = 4
MESSAGES = 6_000
ROUNDS = 3
CONNECTIONS = 32
SERVICE, BARE = "service", "bare"
PATHS = {SERVICE: f"/sms/delivery-reports?token={TOKEN}", BARE: f"/delivery-reports?token={TOKEN}"}
FORM_APP = "benchmarks.support.yardsticks:create_form_app()"


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [_table(measured)],
        {"stores": measured},
        [
            f"bare loop: the same POSTs over the same SDK client in {LANES} threads, and a bare Flask route that parses"
            " the same reports; neither writes anything down",
            f"{ROUNDS} rounds of {MESSAGES:,} messages to each in turn, {PER_POST} a POST, no latency, pace raised;"
            f" the provider reports over {CONNECTIONS} connections; medians, in brackets the lowest and the highest",
            *(
                f"{kind}: {one['verified']:,} messages delivered, each with the answer to its own number, each number"
                " texted once, each report answered with 200"
                for kind, one in measured.items()
            ),
        ],
    )


def _measure_store(kind: str) -> dict[str, Any]:
    with staged(kind, LANES) as stage, tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        apps = {SERVICE: "app:create_app()", BARE: FORM_APP}
        servers = {
            name: stack.enter_context(serving(name, app, stage.settings["DATABASE_URL"], Path(temporary)))
            for name, app in apps.items()
        }
        _go_round(stage, servers[SERVICE], PER_POST)
        rounds = []
        for _ in range(ROUNDS):
            ours, first = _go_round(stage, servers[SERVICE], MESSAGES)
            rounds.append({SERVICE: ours, BARE: _go_round_bare(stage, servers[BARE], first)})
        return {
            SERVICE: figures_of(rounds, SERVICE),
            BARE: figures_of(rounds, BARE),
            "of_bare": ratio_of(rounds, SERVICE, BARE),
            "peak_memory_mb": {
                "worker": stage.worker_peak_memory_mb(),
                "web": servers[SERVICE].peak_memory_mb(),
            },
            "verified": MESSAGES * ROUNDS,
        }


def _manners(server: Server) -> Manners:
    return Manners(report_port=server.port, report_path=PATHS[server.name], report_connections=CONNECTIONS)


def _go_round(stage: Stage, web: Server, count: int) -> tuple[Sent, int]:
    held = stage.hold(count)
    stage.provider.begin(_manners(web))
    processor = stage.worker_seconds() + web.processor_seconds()
    set_batch(stage.database, held.batch_id, "sending")
    _wait_for_reports(stage, count)
    wait_until_applied(stage.database)
    ended_at = time.time()
    used = stage.worker_seconds() + web.processor_seconds() - processor
    stage.provider.require_each_once(held.first, count)
    require_all(stage.database, held, "delivered")
    return Sent(count, ended_at - first_claim(stage.database, held).timestamp(), used), held.first


def _go_round_bare(stage: Stage, web: Server, first: int) -> Sent:
    stage.provider.begin(_manners(web))
    processor = web.processor_seconds()
    bare, taken = stage.send_bare(first, MESSAGES)
    ended_at = _wait_for_reports(stage, MESSAGES)
    used = bare.processor_seconds + web.processor_seconds() - processor
    stage.provider.require_each_once(first, MESSAGES)
    return Sent(MESSAGES, ended_at - taken.started_at, used)


def _wait_for_reports(stage: Stage, count: int) -> float:
    """When the last one was answered, in seconds since 1970."""

    def all_answered() -> bool:
        seen = stage.provider.seen()
        if seen.refused:
            raise CannotMeasure(f"{seen.refused} reports were not answered with 200")
        return seen.reported >= count

    wait_until(all_answered, "all reports", stage.provider.progress)
    return stage.provider.seen().reported_at


def _table(measured: dict[str, Any]) -> Table:
    rows = [
        [
            f"{kind}, {name}",
            f"{figures[name]['per_second']['median']:,.0f}",
            f"{figures[name]['processor_us']['median']:,.0f}",
            Spread(**figures["of_bare"]).as_text() if name == BARE else "",
        ]
        for kind, figures in measured.items()
        for name in (SERVICE, BARE)
    ]
    columns = ["", "messages/s", "CPU µs each", "service / this"]
    return Table("Queued, posted, reported, delivered", columns, rows)
