"""Durable delivery reports per second while what is older than RETENTION_DAYS is erased, beside their idle rate.

Web and worker are real processes; this one erases as a worker's sweep does, until nothing is left. Reports come on
eight connections without a pause. Afterwards the database is asked whether all of them applied and nothing old is left.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from benchmarks.support.beside import (
    AIMS,
    CONNECTIONS,
    figures_of,
    require_all_delivered,
    send_beside,
    table_of,
)
from benchmarks.support.books import fill
from benchmarks.support.intake import running_stack
from benchmarks.support.processes import CannotMeasure
from benchmarks.support.results import Result
from benchmarks.support.stores import available_kinds, migrated_database, opened, settle_statistics
from messaging import statuses
from messaging.operations.erasure import erase_old
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database

OLD_MESSAGES = 60_000
AGE, RETENTION = timedelta(days=100), timedelta(days=90)
# More than come in the time.
REPORTS = 60_000
DURING = "during the erasure"


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [table_of("Delivery reports while old texts are erased", measured, DURING)],
        {"stores": measured, "aims": AIMS},
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
        accepted = fill(url, OLD_MESSAGES, REPORTS)
        service = stack.enter_context(running_stack(url, folder))
        with opened(url) as database:
            # The worker has swept by now, and sweeps again in a minute.
            _age(database)
            beside, seconds = send_beside(service.web, accepted, DURING, lambda: _erase_all(database))
        require_all_delivered(url, OLD_MESSAGES + beside.reports)
    told = {"erasure_seconds": seconds, "us_a_message": seconds / OLD_MESSAGES * 1e6}
    return figures_of(beside.slices, DURING) | told | {"reports": beside.reports}


def _age(database: Database) -> None:
    """What was delivered before the reports came is made old. They have the lowest ids, as they would."""
    with database.write() as connection:
        then = wall_clock(connection) - AGE
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
