"""SQLite's log written back into its file: by an import, which fills it, and between its transactions.

Left to SQLite, the commit that finds the log longer than `LONGEST_LOG_PAGES` does it, while the others wait:
at SQLite's own 1000 pages that was every chunk of an import, and a callback's commit now and then. Beside an
import of 150,000 rows callbacks kept 0.30 of their idle rate, p99 110 ms; with a longer log 0.41, 60 ms.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

from messaging.storage.database import SQLITE_BUSY_SECONDS, Database

logger = logging.getLogger(__name__)


def checkpoint(database: Database, connection: Any) -> None:
    """`connection`: the driver's, outside any transaction. What cannot be done now is the next one's."""
    try:
        # Most of it beside the writers; but while they write the log has no end, and never begins anew.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        with database.write_turn():
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
