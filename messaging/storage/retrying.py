"""Retries a write while the database restarts, so that what this process holds is not lost."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from utils.errors import StorageUnavailable

# Leases outlive the deadline of their POST by as much, so that an answer is recorded while its lease lives.
TIMEOUT_SECONDS = 60.0
RETRY_SECONDS = 0.5
# PostgreSQL's class of errors for what is too large, too long or too many.
PROGRAM_LIMIT = "54"
SQLITE_PERMANENT = (
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
)
# What a store says to a write. SQLite's driver refuses a number of more than 64 bits with Python's own error.
REFUSALS = (DBAPIError, OverflowError)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def with_retries(work: Callable[[], Result], seconds: float = TIMEOUT_SECONDS) -> Result:
    """What `work` returns; it must be safe to try again after a commit whose result was lost.

    Raises what it raised at last, and at once what trying again would not mend.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except (DBAPIError, StorageUnavailable) as error:
            if not is_passing(error) or time.monotonic() > deadline:
                raise
            logger.warning("a write waits for the database")
            time.sleep(RETRY_SECONDS)


def is_passing(error: Exception) -> bool:
    """Trouble with the database itself, or a session that it ended; not with what was written."""
    if isinstance(error, StorageUnavailable):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    return isinstance(error, (OperationalError, InterfaceError)) and not _is_about_the_write(error.orig)


def _is_about_the_write(error: BaseException | None) -> bool:
    """Both drivers also call operational what no waiting mends: a key too long for its index, a missing table."""
    if isinstance(error, sqlite3.Error):
        # The lower byte is the kind, the upper one its cause.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in SQLITE_PERMANENT
    return (getattr(error, "sqlstate", None) or "").startswith(PROGRAM_LIMIT)
