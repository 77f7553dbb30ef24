"""Durable delivery reports per second, beside a Flask route that only parses the form and one that also INSERTs.

All three stand on the same gunicorn with the service's own configuration. Every report is the first for a
message that AT accepted, so each one is journaled, finds its message and moves it to `delivered`; afterwards
the database is asked whether all of them did.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from benchmarks.support import yardsticks
from benchmarks.support.load import Connections, Slice, http_post, percentile
from benchmarks.support.processes import (
    TOKEN,
    CannotMeasure,
    children,
    environment,
    free_port,
    gunicorn,
    listens,
    peak_memory_mb,
    running,
    wait_for,
)
from benchmarks.support.results import Result, Spread, Table
from benchmarks.support.stores import (
    available_kinds,
    empty_database,
    migrated_database,
    opened,
    settle_statistics,
)
from messaging import statuses
from messaging.database import Database, utc_now
from messaging.models import callbacks, delivery_reports, message_events, messages

CONNECTIONS = (8, 32)
ROUNDS = 6
REPORTS_IN_A_SLICE = 1500
INSERT_CHUNK = 1000
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
AIMS = {PLAIN: 0.55, INSERTING: 0.75}


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    port: int
    process_id: int

    def peak_memory_mb(self) -> float | None:
        """Of the largest web process; the one that only starts them does no work."""
        sizes = [peak_memory_mb(child) for child in children(self.process_id)]
        return max((size for size in sizes if size is not None), default=None)


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [_table(kind, figures) for kind, figures in measured.items()],
        {"stores": measured, "aims": {f"of_{name}": aim for name, aim in AIMS.items()}},
        [
            f"{ROUNDS} rounds of {REPORTS_IN_A_SLICE} reports to each of the three in turn, after a round unmeasured;"
            " figures are medians of the rounds, in brackets the lowest and the highest",
            "the client takes a part of the same cores; all three bear that alike",
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
        ids = _accept_messages(url, len(CONNECTIONS) * (ROUNDS + 1) * REPORTS_IN_A_SLICE)
        urls = {SERVICE: url, PLAIN: bare_url, INSERTING: bare_url}
        servers = [stack.enter_context(_serving(name, urls[name], folder)) for name in APPS]
        supply = iter(ids)
        by_connections = {str(count): _measure_load(servers, count, supply) for count in CONNECTIONS}
        memory = {server.name: server.peak_memory_mb() for server in servers}
        _require_all_delivered(url, len(ids))
    return {"connections": by_connections, "peak_memory_mb": memory, "verified": len(ids)}


@contextmanager
def _bare_database(kind: str, folder: Path) -> Iterator[str]:
    (folder / "bare").mkdir()
    with empty_database(kind, folder / "bare") as url:
        with opened(url) as database:
            yardsticks.metadata.create_all(database.engine)
        yield url


@contextmanager
def _serving(name: str, database_url: str, folder: Path) -> Iterator[Server]:
    port, log = free_port(), folder / f"{name}.log"
    with running(gunicorn(APPS[name]), environment(database_url, port), log) as process:
        wait_for(lambda: listens(port), f"the start of {name}", process, log)
        yield Server(name, port, process.pid)


def _measure_load(servers: Sequence[Server], count: int, supply: Iterator[str]) -> dict[str, Any]:
    with ExitStack() as stack:
        open_ones = {server.name: Connections(server.port, count) for server in servers}
        for connections in open_ones.values():
            stack.callback(connections.close)
        _one_round(open_ones, supply)
        rounds = [_one_round(open_ones, supply) for _ in range(ROUNDS)]
    return _figures(rounds)


def _one_round(open_ones: dict[str, Connections], supply: Iterator[str]) -> dict[str, Slice]:
    """The same bodies to each of the three, one after the other: what disturbs the machine hits all alike."""
    bodies = [_report_body(next(supply)) for _ in range(REPORTS_IN_A_SLICE)]
    return {
        name: connections.send_all([http_post(PATHS[name], body, FORM) for body in bodies])
        for name, connections in open_ones.items()
    }


def _figures(rounds: list[dict[str, Slice]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: {
            "per_second": Spread.of([one[name].per_second for one in rounds]).as_json(),
            "p50_ms": percentile([latency for one in rounds for latency in one[name].latencies], 50),
            "p99_ms": percentile([latency for one in rounds for latency in one[name].latencies], 99),
        }
        for name in APPS
    }
    for name in AIMS:
        ratios = [one[SERVICE].per_second / one[name].per_second for one in rounds]
        figures[f"of_{name}"] = Spread.of(ratios).as_json()
    return figures


def _accept_messages(url: str, count: int) -> list[str]:
    """Messages as AT's answer left them; their provider ids."""
    ids = [f"ATXid_{secrets.token_hex(16)}" for _ in range(count)]
    with opened(url) as database:
        for start in range(0, count, INSERT_CHUNK):
            _insert_accepted(database, ids[start : start + INSERT_CHUNK], start)
        settle_statistics(database)
    return ids


def _insert_accepted(database: Database, provider_ids: list[str], first: int) -> None:
    now = utc_now()
    with database.write() as connection:
        numbers = database.reserve_ids(connection, messages, len(provider_ids))
        rows = [
            {
                "id": number,
                "recipient": _phone(first + offset),
                "text": "Your parcel is here",
                "origin": "api",
                "priority": 5,
                "status": statuses.ACCEPTED,
                "on_unknown": "hold",
                "due_at": now,
                "created_at": now,
                "sent_at": now + timedelta(seconds=1),
                "provider_message_id": provider_id,
            }
            for offset, (number, provider_id) in enumerate(zip(numbers, provider_ids, strict=True))
        ]
        connection.execute(insert(messages), rows)
        history = [
            {"message_id": number, "at": now, "status": status, "source": "record"}
            for number in numbers
            for status in (statuses.QUEUED, statuses.ACCEPTED)
        ]
        connection.execute(insert(message_events), history)


def _phone(number: int) -> str:
    return f"+2547{number:08d}"


def _report_body(provider_id: str) -> bytes:
    """As recorded from AT (PROVIDER section 4b), with a good end."""
    return (
        f"phoneNumber=%2B2547{int(provider_id[-7:], 16) % 10**8:08d}&retryCount=0&id={provider_id}"
        "&status=Success&networkCode=63902"
    ).encode()


def _require_all_delivered(url: str, sent: int) -> None:
    """Raises CannotMeasure where a report was answered and not applied."""
    queries = {
        "journaled": select(func.count()).where(
            callbacks.c.outcome == "applied", callbacks.c.kind == "report"
        ),
        "applied": select(func.count()).where(delivery_reports.c.effect == "moved"),
        "delivered": select(func.count()).where(messages.c.status == statuses.DELIVERED),
        "in the history": select(func.count()).where(message_events.c.status == statuses.DELIVERED),
    }
    with opened(url) as database, database.read() as connection:
        found = {what: connection.execute(query).scalar_one() for what, query in queries.items()}
    if set(found.values()) != {sent}:
        raise CannotMeasure(f"{sent} reports were answered, but {found}")


def _table(kind: str, measured: dict[str, Any]) -> Table:
    memory = measured["peak_memory_mb"]
    rows = [
        [
            f"{name}, {count} connections",
            f"{figures[name]['per_second']['median']:,.0f}",
            f"{figures[name]['p50_ms']:.1f}",
            f"{figures[name]['p99_ms']:.1f}",
            _ratio(figures, name),
            "" if memory[name] is None else f"{memory[name]:.0f}",
        ]
        for count, figures in measured["connections"].items()
        for name in APPS
    ]
    columns = ["delivery reports", "per second", "p50 ms", "p99 ms", "the service's share of it", "peak MB"]
    return Table(f"Delivery reports, {kind}", columns, rows)


def _ratio(figures: dict[str, Any], name: str) -> str:
    if name not in AIMS:
        return ""
    return f"{Spread(**figures[f'of_{name}']).as_text()}, aim {AIMS[name]}"
