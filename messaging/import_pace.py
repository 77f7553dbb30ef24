"""How much of an import is one transaction: all that nobody waits for, little where somebody does.

On SQLite all writers share one lock: an import in transactions of 10,000 rows took callbacks from 942 to 45 a
second; 1,000 with a pause left them half. Alone it may take more at a time, for each commit waits for the disk
and writes pages of the same indexes again. PostgreSQL locks rows, and only long transactions are to be avoided.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from messaging.database import Database

POSTGRESQL_CHUNK = 5000
SHARED_CHUNK, ALONE_CHUNK = 1000, 8000
SHARED_PAUSE_SECONDS = 0.005
QUIET_SECONDS = 1.0


class Pace(Protocol):
    """Asked for each chunk, in this order: its size, the turn to write it, and what is due after that."""

    def chunk_size(self) -> int: ...

    def before_write(self) -> None: ...

    def after_write(self) -> None: ...


@contextmanager
def import_pace(database: Database) -> Iterator[Pace]:
    if not database.is_sqlite:
        yield SteadyPace()
        return
    watch: Any = database.engine.raw_connection()
    try:
        yield SharingPace(watch)
    finally:
        watch.close()


class SteadyPace:
    def chunk_size(self) -> int:
        return POSTGRESQL_CHUNK

    def before_write(self) -> None:
        return None

    def after_write(self) -> None:
        return None


class SharingPace:
    """`watch`: a connection of its own, outside any transaction, on which SQLite tells that others have written.

    It looks between two chunks, so that what it sees is never its own. A waiting writer polls and cannot be
    seen; but it gets in where the next chunk is being read, and that is seen.
    """

    def __init__(self, watch: Any) -> None:
        self._watch = watch
        self._version = self._data_version()
        self._heard_at = time.monotonic()

    def chunk_size(self) -> int:
        return SHARED_CHUNK if self._is_shared() else ALONE_CHUNK

    def before_write(self) -> None:
        if self._data_version() != self._version:
            self._heard_at = time.monotonic()

    def after_write(self) -> None:
        self._version = self._data_version()
        if self._is_shared():
            time.sleep(SHARED_PAUSE_SECONDS)

    def _is_shared(self) -> bool:
        return time.monotonic() - self._heard_at < QUIET_SECONDS

    def _data_version(self) -> int:
        return int(self._watch.execute("PRAGMA data_version").fetchone()[0])
