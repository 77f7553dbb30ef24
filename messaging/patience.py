"""A database that restarts must not cost us what we hold: the write is tried until it is there again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

# Leases outlive the deadline of their POST by as much, so that an answer is recorded while its lease lives.
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 0.5

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def with_patience(work: Callable[[], Result], seconds: float = PATIENCE_SECONDS) -> Result:
    """What `work` returns; it has to bear being tried again after a commit of which nobody knows.

    Raises what it raised at last, and at once what trying again would not mend.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except DBAPIError as error:
            if not _is_passing(error) or time.monotonic() > deadline:
                raise
            logger.warning("a write waits for the database")
            time.sleep(RETRY_SECONDS)


def _is_passing(error: DBAPIError) -> bool:
    """Trouble with the database itself, or a session that it ended; not with what was written."""
    return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))
