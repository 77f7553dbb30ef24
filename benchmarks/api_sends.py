"""`POST /v1/messages` with 1, 100 and 10,000 recipients, beside a Flask route that trusts what it is sent.

The yardstick parses the same JSON and inserts the same rows by `executemany`: no keys, no validation, no
normalised numbers, no duplicates found, no wake-up of the worker.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.support.contests import Requests, Server, figures_of, play, ratio_of, serving
from benchmarks.support.load import http_post
from benchmarks.support.processes import API_KEY, CannotMeasure
from benchmarks.support.results import Result, Spread, Table
from benchmarks.support.stores import available_kinds, migrated_database, opened
from messaging import statuses
from messaging.storage import tables

ROUNDS = 4
# Recipients of a call: connections, calls in a round, aim.
SIZES = {1: (8, 300, 0.3), 100: (8, 60, 0.4), 10_000: (2, 4, 0.5)}
SERVICE, BARE = "service", "executemany"
APPS = {SERVICE: "app:create_app()", BARE: "benchmarks.support.yardsticks:create_rows_app()"}
JSON = "application/json"
ACCEPTED = b"HTTP/1.1 202 "


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [_table(kind, figures) for kind, figures in measured.items()],
        {"stores": measured, "aims": {str(size): aim for size, (_, _, aim) in SIZES.items()}},
        [
            "executemany: a bare Flask route parses the same JSON and inserts the same rows, and checks nothing",
            f"{ROUNDS} rounds to each in turn; medians, in brackets the lowest and the highest round",
            *(
                f"{kind}: {one['verified']:,} recipients taken, as many queued"
                for kind, one in measured.items()
            ),
        ],
    )


def _measure_store(kind: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        servers, urls = [], {}
        for name, app in APPS.items():
            folder = Path(temporary) / name
            folder.mkdir()
            urls[name] = stack.enter_context(migrated_database(kind, folder))
            servers.append(stack.enter_context(serving(name, app, urls[name], folder)))
        sizes = {str(size): _measure_size(servers, size) for size in SIZES}
        memory = {server.name: server.peak_memory_mb() for server in servers}
        expected = sum(size * calls * (ROUNDS + 1) for size, (_, calls, _) in SIZES.items())
        for url in urls.values():
            _require_all_queued(url, expected)
    return {"recipients": sizes, "peak_memory_mb": memory, "verified": expected}


def _measure_size(servers: Sequence[Server], size: int) -> dict[str, Any]:
    connections, calls, _ = SIZES[size]
    requests = _requests(size, calls)
    rounds = play(servers, connections, lambda: requests, ROUNDS, ACCEPTED)
    figures = {name: figures_of(rounds, name) for name in APPS}
    return figures | {f"of_{BARE}": ratio_of(rounds, SERVICE, BARE)}


def _requests(size: int, calls: int) -> Requests:
    to = [f"+25471{number:05d}11" for number in range(size)]
    body = json.dumps({"to": to, "text": "Your parcel is here", "sender_id": "SHOP"}).encode()
    request = http_post("/v1/messages", body, JSON, f"Authorization: Bearer {API_KEY}\r\n")
    return dict.fromkeys(APPS, [request] * calls)


def _require_all_queued(url: str, expected: int) -> None:
    """Raises CannotMeasure where a recipient was taken and not stored."""
    with opened(url) as database, database.read() as connection:
        query = select(func.count()).where(tables.messages.c.status == statuses.QUEUED)
        found = connection.execute(query).scalar_one()
    if found != expected:
        raise CannotMeasure(f"{expected} recipients were taken, but {found} are queued")


def _table(kind: str, measured: dict[str, Any]) -> Table:
    rows = [
        [
            f"{name}, {int(size):,} recipients",
            f"{figures[name]['per_second']['median']:,.1f}",
            f"{figures[name]['per_second']['median'] * int(size):,.0f}",
            f"{figures[name]['p50_ms']:,.1f}",
            f"{figures[name]['p99_ms']:,.1f}",
            _ratio(figures, int(size)) if name == BARE else "",
            f"{measured['peak_memory_mb'][name]:.0f}",
        ]
        for size, figures in measured["recipients"].items()
        for name in APPS
    ]
    columns = ["", "calls/s", "recipients/s", "p50 ms", "p99 ms", "service / this", "peak MB"]
    return Table(f"POST /v1/messages, {kind}", columns, rows)


def _ratio(figures: dict[str, Any], size: int) -> str:
    return f"{Spread(**figures[f'of_{BARE}']).as_text()}, aim {SIZES[size][2]}"
