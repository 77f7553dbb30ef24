"""Durable delivery reports per second while what is older than RETENTION_DAYS is erased, beside their idle rate.

Web and worker are real processes; this one erases as a worker's sweep does, until nothing is left. Reports come on
eight connections without a pause. Afterwards the database is asked whether all of them applied and nothing old is left.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from benchmarks.support.beside import (
    AFTER,
    AIM,
    AIM_P99_MS,
    BEFORE,
    CONNECTIONS,
    IDLE_REPORTS,
    WARM_UP,
    figures_of,
    require_all_delivered,
    table_of,
)
from benchmarks.support.books import fill, report_body
from benchmarks.support.intake import running_stack
from benchmarks.support.load import Connections, http_post
from benchmarks.support.processes import TOKEN, CannotMeasure
from benchmarks.support.results import Result
from benchmarks.support.stores import available_kinds, migrated_database, opened, settle_statistics
from messaging import statuses
from messaging.operations.erasure import erase_old
from messaging.storage import tables
from messaging.storage.database import Database

OLD_MESSAGES = 60_000
AGE, RETENTION = timedelta(days=100), timedelta(days=90)
# More than come in the time.
REPORTS = 60_000
FORM = "application/x-www-form-urlencoded"
PATH = f"/sms/delivery-reports?token={TOKEN}"
DURING = "during the erasure"


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [table_of("Delivery reports while old texts are erased", measured, DURING)],
        {"stores": measured, "aims": {"of_idle": AIM, "p99_ms": AIM_P99_MS}},
        [
            f"{CONNECTIONS} connections; {OLD_MESSAGES:,} messages of {AGE.days} days ago, each with its history,"
            " a callback and a report",
            "of idle: beside the mean of the idle rates before and after",
            *(
                f"{kind}: all erased within {one['erasure_seconds']:.1f} s, {one['us_a_message']:.0f} µs a message;"
                f" {one['reports']:,} reports answered, as many messages delivered"
                for kind, one in measured.items()
            ),
        ],
    )


def _measure_store(kind: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        url = stack.enter_context(migrated_database(kind, folder))
        supply = (http_post(PATH, report_body(one), FORM) for one in fill(url, OLD_MESSAGES, REPORTS))
        service = stack.enter_context(running_stack(url, folder))
        connections = Connections(service.web.port, CONNECTIONS, service.web.web_processes)
        stack.callback(connections.close)
        warm_up = connections.send_all(islice(supply, WARM_UP))
        slices = {BEFORE: connections.send_all(islice(supply, IDLE_REPORTS))}
        with ThreadPoolExecutor(1) as aside, opened(url) as database:
            _age(database)
            erasing = aside.submit(_erase_all, database)
            slices[DURING] = connections.send_all(_until_over(supply, erasing))
            seconds = erasing.result()
        slices[AFTER] = connections.send_all(islice(supply, IDLE_REPORTS))
        reports = warm_up.answered + sum(one.answered for one in slices.values())
        require_all_delivered(url, OLD_MESSAGES + reports)
    told = {"erasure_seconds": seconds, "us_a_message": seconds / OLD_MESSAGES * 1e6, "reports": reports}
    return figures_of(slices, DURING) | told


def _age(database: Database) -> None:
    """What was delivered before the reports came is made old. They have the lowest ids, as they would."""
    with database.write() as connection:
        then = database.now(connection) - AGE
        for table, columns in (
            (tables.messages, ("created_at", "sent_at")),
            (tables.callbacks, ("received_at", "last_seen_at")),
            (tables.delivery_reports, ("received_at",)),
        ):
            old = table.c.id <= OLD_MESSAGES
            connection.execute(update(table).where(old).values(**dict.fromkeys(columns, then)))
    settle_statistics(database)


def _erase_all(database: Database) -> float:
    began_at = time.perf_counter()
    while erase_old(database, RETENTION):
        pass
    seconds = time.perf_counter() - began_at
    left = select(func.count()).where(
        tables.messages.c.id <= OLD_MESSAGES,
        tables.messages.c.recipient != "",
        tables.messages.c.status == statuses.DELIVERED,
    )
    with database.read() as connection:
        if count := connection.execute(left).scalar_one():
            raise CannotMeasure(f"{count} old messages are not erased")
    return seconds


def _until_over(supply: Iterator[bytes], work: Future[float]) -> Iterator[bytes]:
    while not work.done() and (request := next(supply, None)) is not None:
        yield request
