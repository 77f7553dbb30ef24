"""Durable delivery reports per second while a file of a million rows becomes messages, beside their idle rate.

Web and worker are real processes. Reports come on eight connections without a pause, from before the upload
until the batch is whole; then it lies there, to be sent tomorrow, and the idle rate is taken once more. Every
report is the first for a message that AT accepted, and afterwards the database is asked whether all applied.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

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
from benchmarks.support.intake import MOST_ROWS, Intake, running_stack, take_in
from benchmarks.support.load import Connections, http_post
from benchmarks.support.processes import TOKEN
from benchmarks.support.recipient_files import MIX, RecipientFile, write_recipients
from benchmarks.support.results import Result
from benchmarks.support.stores import available_kinds, migrated_database

HISTORY = 10_000
# More than come in the time; where they end early, the rest of the intake counts for nothing.
REPORTS = 20_000 + MOST_ROWS // 4
FORM = "application/x-www-form-urlencoded"
PATH = f"/sms/delivery-reports?token={TOKEN}"
DURING = "during the intake"


def measure() -> Result:
    with tempfile.TemporaryDirectory() as temporary:
        file = write_recipients(Path(temporary) / "recipients.csv", MOST_ROWS)
        measured = {kind: _measure_store(kind, file) for kind in available_kinds()}
    return Result(
        [table_of("Delivery reports while a file is taken in", measured, DURING)],
        {"stores": measured, "aims": {"of_idle": AIM, "p99_ms": AIM_P99_MS}},
        [
            f"{CONNECTIONS} connections; a file of {MOST_ROWS:,} rows, of which {MIX}",
            "of idle: beside the mean of the idle rates before and after",
            "the client, and PostgreSQL, take their part of the same cores",
            *(
                f"{kind}: {one['reports']:,} reports answered, as many messages delivered; {one['rows']:,} rows taken"
                f" in within {one['intake_seconds']:.0f} s, {one['answer_seconds']:.1f} s of it until the 202"
                for kind, one in measured.items()
            ),
        ],
    )


def _measure_store(kind: str, file: RecipientFile) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        url = stack.enter_context(migrated_database(kind, folder))
        supply = (http_post(PATH, report_body(one), FORM) for one in fill(url, HISTORY, REPORTS))
        service = stack.enter_context(running_stack(url, folder))
        connections = Connections(service.web.port, CONNECTIONS, service.web.web_processes)
        stack.callback(connections.close)
        warm_up = connections.send_all(islice(supply, WARM_UP))
        slices = {BEFORE: connections.send_all(islice(supply, IDLE_REPORTS))}
        with ThreadPoolExecutor(1) as aside:
            taking = aside.submit(take_in, service, file)
            slices[DURING] = connections.send_all(_until_whole(supply, taking))
            intake = taking.result()
        slices[AFTER] = connections.send_all(islice(supply, IDLE_REPORTS))
        reports = warm_up.answered + sum(one.answered for one in slices.values())
        require_all_delivered(url, HISTORY + reports)
        memory = {"web": service.web.peak_memory_mb(), "worker": service.worker_memory_mb()}
    seconds = {"intake_seconds": intake.seconds, "answer_seconds": intake.answer_seconds}
    return (
        figures_of(slices, DURING)
        | seconds
        | {"reports": reports, "rows": file.rows, "peak_memory_mb": memory}
    )


def _until_whole(supply: Iterator[bytes], taking: Future[Intake]) -> Iterator[bytes]:
    while not taking.done() and (request := next(supply, None)) is not None:
        yield request
