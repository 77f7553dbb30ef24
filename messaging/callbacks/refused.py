"""Callbacks with a wrong token: nothing of them is kept but their number."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from messaging.storage import counters
from messaging.storage.database import Database

NAME = "refused_callbacks"
FLUSH_INTERVAL_SECONDS = 1.0

logger = logging.getLogger(__name__)


class RefusedCallbacks:
    """Counts in memory and writes at most once a second: strangers must not be able to load the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._unwritten = 0
        self._written_at = -FLUSH_INTERVAL_SECONDS

    def count(self) -> None:
        with self._lock:
            self._unwritten += 1
            is_due = time.monotonic() - self._written_at >= FLUSH_INTERVAL_SECONDS
        if is_due:
            self.flush()

    def flush(self) -> None:
        """Writes what is unwritten; keeps it where the database cannot be used now."""
        with self._lock:
            taken, self._unwritten = self._unwritten, 0
            self._written_at = time.monotonic()
        if not taken:
            return
        try:
            with self._database.write() as connection:
                counters.add(connection, NAME, taken)
        except SQLAlchemyError:
            logger.warning("refused callbacks stay uncounted for now", extra={"count": taken})
            with self._lock:
                self._unwritten += taken
