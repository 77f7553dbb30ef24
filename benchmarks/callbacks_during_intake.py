"""Durable delivery reports per second while a file of a million rows becomes messages, beside their idle rate.

Web and worker are real processes. Reports come on eight connections without a pause, from before the upload
until the batch is whole; then it lies there, to be sent tomorrow, and the idle rate is taken once more. Every
report is the first for a message that AT accepted, and afterwards the database is asked whether all applied.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.support.beside import (
    AIMS,
    CONNECTIONS,
    figures_of,
    require_all_delivered,
    send_beside,
    table_of,
)
from benchmarks.support.books import fill
from benchmarks.support.intake import MOST_ROWS, running_stack, take_in
from benchmarks.support.recipient_files import MIX, RecipientFile, write_recipients
from benchmarks.support.results import Result
from benchmarks.support.stores import available_kinds, migrated_database

HISTORY = 10_000
# More than come in the time; where they end early, the rest of the intake counts for nothing.
REPORTS = 20_000 + MOST_ROWS // 4
DURING = "during the intake"


def measure() -> Result:
    with tempfile.TemporaryDirectory() as temporary:
        file = write_recipients(Path(temporary) / "recipients.csv", MOST_ROWS)
        measured = {kind: _measure_store(kind, file) for kind in available_kinds()}
    return Result(
        [table_of("Delivery reports while a file is taken in", measured, DURING)],
        {"stores": measured, "aims": AIMS},
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
        accepted = fill(url, HISTORY, REPORTS)
        service = stack.enter_context(running_stack(url, folder))
        beside, intake = send_beside(service.web, accepted, DURING, lambda: take_in(service, file))
        require_all_delivered(url, HISTORY + beside.reports)
        memory = {"web": service.web.peak_memory_mb(), "worker": service.worker_memory_mb()}
    seconds = {"intake_seconds": intake.seconds, "answer_seconds": intake.answer_seconds}
    told = {"reports": beside.reports, "rows": file.rows, "peak_memory_mb": memory}
    return figures_of(beside.slices, DURING) | seconds | told
