"""A CSV file made into durable, validated, deduplicated messages, beside `csv` and `executemany` with no checks.

The service's time runs from before `POST /v1/batches` until the batch is whole: the real web process keeps the
file, the real worker makes it messages. The yardstick reads the same file from disk and inserts every row of
it into the same table. Each of the two begins with an empty database, the service with new processes too, so
that their peak memory is that of this file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.support.bare_import import import_bare
from benchmarks.support.intake import MOST_ROWS, running_stack, take_in
from benchmarks.support.recipient_files import MIX, TEMPLATE, RecipientFile, write_recipients
from benchmarks.support.results import Result, Spread, Table
from benchmarks.support.stores import available_kinds, migrated_database

# Rows of a file: rounds.
SIZES = {100_000: 3, MOST_ROWS: 1}
AIM, AIM_MEMORY_MB = 0.4, 200
SERVICE, BARE = "service", "executemany"


def measure() -> Result:
    with tempfile.TemporaryDirectory() as temporary:
        files = [write_recipients(Path(temporary) / f"{rows}.csv", rows) for rows in SIZES]
        measured = {kind: {one.rows: _measure_size(kind, one) for one in files} for kind in available_kinds()}
    return Result(
        [_table(kind, sizes) for kind, sizes in measured.items()],
        {"stores": measured, "aims": {f"of_{BARE}": AIM, "web_peak_mb": AIM_MEMORY_MB}},
        [
            f"executemany: no checks, chunks of 10,000 rows; of the files' rows {MIX}; one placeholder",
            "medians of the rounds, the two in turn; in brackets the lowest and the highest",
            "import: from the 202, when the file is durable, until the batch is whole",
            "after each: every number taken is queued once, every refused row is kept, every duplicate counted",
        ],
    )


def _measure_size(kind: str, file: RecipientFile) -> dict[str, Any]:
    rounds = [_play_round(kind, file) for _ in range(SIZES[file.rows])]
    spreads = {name: Spread.of([one[name] for one in rounds]).as_json() for name in rounds[0]}
    return {"rounds": len(rounds), **spreads}


def _play_round(kind: str, file: RecipientFile) -> dict[str, float]:
    bare_seconds = _import_bare(kind, file)
    with (
        tempfile.TemporaryDirectory() as temporary,
        migrated_database(kind, Path(temporary)) as url,
        running_stack(url, Path(temporary)) as stack,
    ):
        taken = take_in(stack, file)
        memory = {"web_peak_mb": stack.web.peak_memory_mb(), "worker_peak_mb": stack.worker_memory_mb()}
    return {
        f"{BARE}_per_second": file.rows / bare_seconds,
        f"{SERVICE}_per_second": file.rows / taken.seconds,
        "import_per_second": file.rows / (taken.seconds - taken.answer_seconds),
        "answer_seconds": taken.answer_seconds,
        f"of_{BARE}": bare_seconds / taken.seconds,
        f"import_of_{BARE}": bare_seconds / (taken.seconds - taken.answer_seconds),
        **memory,
    }


def _import_bare(kind: str, file: RecipientFile) -> float:
    with tempfile.TemporaryDirectory() as temporary, migrated_database(kind, Path(temporary)) as url:
        return import_bare(url, file.path, TEMPLATE)


def _table(kind: str, sizes: dict[int, dict[str, Any]]) -> Table:
    rows = [
        [
            f"{size:,} rows",
            f"{figures[f'{BARE}_per_second']['median']:,.0f}",
            f"{figures[f'{SERVICE}_per_second']['median']:,.0f}",
            f"{Spread(**figures[f'of_{BARE}']).as_text()}, aim {AIM}",
            f"{figures[f'import_of_{BARE}']['median']:.2f}",
            f"{figures['answer_seconds']['median']:.1f}",
            f"{figures['web_peak_mb']['highest']:.0f}, aim {AIM_MEMORY_MB}",
            f"{figures['worker_peak_mb']['highest']:.0f}",
        ]
        for size, figures in sizes.items()
    ]
    columns = [
        "",
        "executemany rows/s",
        "service rows/s",
        "service / executemany",
        "import / executemany",
        "202 after s",
        "web peak MB",
        "worker peak MB",
    ]
    return Table(f"Intake of a CSV file, {kind}", columns, rows)
