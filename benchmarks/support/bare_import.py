"""What the intake of a file is measured against: `csv` and `executemany`, with no checks.

The driver's own `executemany`, into the same table with the same indexes and the same durability. Every row
goes in as it stands, also one that is a duplicate or cannot be sent.
"""

from __future__ import annotations

import csv
import time
from itertools import islice
from pathlib import Path

from sqlalchemy import insert

from benchmarks.support.stores import opened
from messaging.batches.placeholders import Placeholders
from messaging.storage import tables
from messaging.storage.bulk import as_stored
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database

CHUNK = 10_000
COLUMNS = (
    "recipient, text, batch_id, sender_id, origin, priority, status, on_unknown, due_at, estimated_parts,"
    " created_at"
)


def import_bare(url: str, path: Path, template: str) -> float:
    """Seconds from the first byte read to the last commit."""
    with opened(url) as database, path.open(encoding="utf-8", newline="") as file:
        batch_id = _write_batch(database)
        started = time.perf_counter()
        reader = csv.reader(file)
        header = next(reader)
        filled = Placeholders(template)
        places = [header.index(name) for name in filled.columns]
        phone = header.index("phone")
        rows = ((cells[phone], filled.fill([cells[one] for one in places])) for cells in reader)
        while chunk := list(islice(rows, CHUNK)):
            _insert(database, batch_id, chunk)
        return time.perf_counter() - started


def _write_batch(database: Database) -> int:
    row = {"status": "receiving", "created_at": utc_now()}
    with database.write() as connection:
        return int(connection.execute(insert(tables.batches).values(**row)).inserted_primary_key[0])


def _insert(database: Database, batch_id: int, chunk: list[tuple[str, str]]) -> None:
    with database.write() as connection:
        now = as_stored(connection, utc_now())
        shared = (batch_id, None, "batch", 5, "queued", "hold", now, 1, now)
        mark = "?" if database.is_sqlite else "%s"
        marks = ", ".join([mark] * (2 + len(shared)))
        statement = f"INSERT INTO messages ({COLUMNS}) VALUES ({marks})"
        connection.exec_driver_sql(statement, [(*row, *shared) for row in chunk])
