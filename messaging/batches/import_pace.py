"""How much of an import is one transaction: as much as nobody waits long for, little where somebody does.

On SQLite all writers share one lock: an import in transactions of 10,000 rows took callbacks from 942 to 45 a
second. In chunks of 1,000, each followed by as long a pause, they keep about half of their idle rate. Alone it
may take more at a time, for each commit waits for the disk and writes pages of the same indexes again.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy import text

from messaging.storage.database import SQLITE_BUSY_SECONDS, Database

POSTGRESQL_CHUNK = 5000
SMALLEST_CHUNK, SHARED_CHUNK, ALONE_CHUNK = 250, 1000, 8000
# For how long a chunk may hold the lock.
SHARED_HOLD_SECONDS, ALONE_HOLD_SECONDS = 0.03, 0.1
# After a chunk others get as long as it has held them up, within these.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.005, 0.1
QUIET_SECONDS = 1.0
# In a table of a million rows each fills about two pages of SQLite's log.
ROWS_BETWEEN_CHECKPOINTS = 4000
_LOOK = text(
    "SELECT reltuples, (SELECT last_value + is_called::int FROM callbacks_id_seq)"
    " FROM pg_class WHERE oid = 'messages'::regclass"
)
_ANALYZE = text("ANALYZE messages")

logger = logging.getLogger(__name__)


class Pace(Protocol):
    """Asked for each chunk, in this order."""

    def chunk_size(self) -> int: ...

    def before_write(self) -> None: ...

    def after_write(self, rows: int, seconds: float) -> None:
        """`rows`: how many messages it was; `seconds`: for how long it held its locks."""


@contextmanager
def import_pace(database: Database) -> Iterator[Pace]:
    if not database.is_sqlite:
        yield PlannedPace(database)
        return
    watch: Any = database.engine.raw_connection()
    try:
        yield SharingPace(database, watch)
    finally:
        watch.close()


class PlannedPace:
    """PostgreSQL locks rows, so a chunk holds up nobody but by the processors and the disk, which both need.

    It plans by what it last saw of the table: a statement prepared while `messages` was small reads all of it, a
    million rows for one callback, until the table is analyzed; autovacuum comes a minute late. So: whenever the
    import has doubled the table.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows_since = 0
        self._last_callback: int | None = None
        self._heard_at = time.monotonic() - QUIET_SECONDS

    def chunk_size(self) -> int:
        return SHARED_CHUNK if self._is_shared() else POSTGRESQL_CHUNK

    def before_write(self) -> None:
        return None

    def after_write(self, rows: int, seconds: float) -> None:
        self._rows_since += rows
        with self._database.read() as connection:
            planned_for, last_callback = connection.execute(_LOOK).one()
        if self._rows_since >= planned_for:
            with self._database.write() as connection:
                connection.execute(_ANALYZE)
            self._rows_since = 0
        if self._last_callback not in (None, last_callback):
            self._heard_at = time.monotonic()
        self._last_callback = last_callback
        if self._is_shared():
            time.sleep(max(SHORTEST_PAUSE_SECONDS, min(seconds, LONGEST_PAUSE_SECONDS)))

    def _is_shared(self) -> bool:
        return time.monotonic() - self._heard_at < QUIET_SECONDS


class SharingPace:
    """`watch`: a connection of its own, outside any transaction, on which SQLite tells that others have written.

    It looks between two chunks, so that what it sees is never its own. A waiting writer cannot be seen; but it
    gets in where the next chunk is being read, and that is seen.
    """

    def __init__(self, database: Database, watch: Any) -> None:
        self._database = database
        self._watch = watch
        self._rows_in_log = 0
        self._version = self._data_version()
        self._heard_at = time.monotonic() - QUIET_SECONDS
        self._rows_per_second = SHARED_CHUNK / SHARED_HOLD_SECONDS

    def chunk_size(self) -> int:
        is_shared = self._is_shared()
        seconds = SHARED_HOLD_SECONDS if is_shared else ALONE_HOLD_SECONDS
        most = SHARED_CHUNK if is_shared else ALONE_CHUNK
        return max(SMALLEST_CHUNK, min(most, int(self._rows_per_second * seconds)))

    def before_write(self) -> None:
        if self._data_version() != self._version:
            self._heard_at = time.monotonic()

    def after_write(self, rows: int, seconds: float) -> None:
        self._write_back(rows)
        self._version = self._data_version()
        self._rows_per_second = rows / max(seconds, 0.001)
        if self._is_shared():
            time.sleep(max(SHORTEST_PAUSE_SECONDS, min(seconds, LONGEST_PAUSE_SECONDS)))

    def _write_back(self, rows: int) -> None:
        self._rows_in_log += rows
        if self._rows_in_log >= ROWS_BETWEEN_CHECKPOINTS:
            checkpoint(self._database, self._watch)
            self._rows_in_log = 0

    def _is_shared(self) -> bool:
        return time.monotonic() - self._heard_at < QUIET_SECONDS

    def _data_version(self) -> int:
        return int(self._watch.execute("PRAGMA data_version").fetchone()[0])


def checkpoint(database: Database, connection: Any) -> None:
    """Writes SQLite's log back into its file, between two transactions of an import.

    Left to SQLite, the commit that finds the log longer than `LONGEST_LOG_PAGES` does it, while the others wait:
    at SQLite's own 1000 pages that was every chunk of an import, and a callback's commit now and then. Beside an
    import of 150,000 rows callbacks kept 0.30 of their idle rate, p99 110 ms; with a longer log 0.41, 60 ms.

    `connection`: the driver's, outside any transaction. What cannot be done now is the next one's."""
    try:
        # Most of it beside the writers; but while they write the log has no end, and never begins anew.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        with database.write_lock():
            _restart_log(connection)
    except sqlite3.OperationalError:
        logger.warning("the log cannot be written back", exc_info=True)


def _restart_log(connection: Any) -> None:
    # It waits for readers of the log with all writers waiting behind it: for a long download not at all.
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
    finally:
        connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000}")
