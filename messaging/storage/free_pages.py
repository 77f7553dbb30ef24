"""Gives the room of erased rows back to the disk: SQLite's incremental vacuum, in small steps.

Only in a file that was made for it (`auto_vacuum`): one of an earlier release keeps its free pages and uses them again.
Elsewhere nothing is done.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection

from messaging.storage.database import Database

# A megabyte, for which other writers wait.
STEP_PAGES = 256
# Between two steps: SQLite's other writers poll for the lock and have to find it free.
BREATH_SECONDS = 0.01
# 10 MB stay for what is written next. Free pages hold zeros.
KEPT_PAGES = 2560
# Of one call. What is left comes with the next one.
SECONDS = 5.0
INCREMENTAL = 2


def give_back(database: Database, seconds: float = SECONDS) -> int:
    """How many pages the file will lose when its log is written back (`Database.truncate_log`)."""
    if not database.is_sqlite:
        return 0
    end = time.monotonic() + seconds
    given = 0
    while pages := _spare_pages(database):
        _vacuum(database, min(pages, STEP_PAGES))
        given += min(pages, STEP_PAGES)
        if time.monotonic() > end:
            break
        time.sleep(BREATH_SECONDS)
    return given


def _spare_pages(database: Database) -> int:
    with database.read() as connection:
        if _pragma(connection, "auto_vacuum") != INCREMENTAL:
            return 0
        return max(0, _pragma(connection, "freelist_count") - KEPT_PAGES)


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _vacuum(database: Database, pages: int) -> None:
    connection = database.engine.raw_connection()
    try:
        with database.write_lock():
            # Each page is a row without columns: `execute` reads the first and stops there.
            connection.executescript(f"PRAGMA incremental_vacuum({pages})")
    finally:
        connection.close()
