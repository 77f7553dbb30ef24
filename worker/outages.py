"""One line where the database or the queue goes away, and one where it is back: every thread of a worker meets it,
several times a second, and each would write a traceback."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from typing import NamedTuple

import psycopg
import redis
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from messaging.storage.retrying import is_passing
from messaging.storage.task_queue import first_line

DATABASE, QUEUE = "database", "task queue"
# Of the errors that a queue may raise, those that pass.
QUEUE_IS_AWAY = (
    psycopg.OperationalError,
    redis.ConnectionError,
    redis.TimeoutError,
    sqlite3.OperationalError,
)
# A thread may find a dead connection in the pool a moment after another has been served.
QUIET_SECONDS = 1.0

logger = logging.getLogger(__name__)


class _Outage(NamedTuple):
    since: float
    latest: float
    failures: int


class Outages(logging.Filter):
    """A filter for the handlers of the log. Whoever finds the store well again says so: `end`."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._now: dict[str, _Outage] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        store = _store_of(error)
        if store is None or error is None:
            return True
        if not self._is_first(store):
            return False
        record.msg, record.args = f"the {store} cannot be used: an outage begins", ()
        record.exc_info = record.exc_text = None
        record.error = first_line(error)
        return True

    def is_on(self, store: str) -> bool:
        with self._lock:
            return store in self._now

    def end(self, store: str) -> None:
        now = time.monotonic()
        with self._lock:
            outage = self._now.get(store)
            if outage is None or now - outage.latest < QUIET_SECONDS:
                return
            del self._now[store]
        logger.warning(
            "the %s can be used again: the outage is over",
            store,
            extra={"seconds": round(now - outage.since, 1), "failures": outage.failures},
        )

    def _is_first(self, store: str) -> bool:
        now = time.monotonic()
        with self._lock:
            known = self._now.get(store)
            since, failures = (known.since, known.failures) if known else (now, 0)
            self._now[store] = _Outage(since, now, failures + 1)
            return known is None


def _store_of(error: BaseException | None) -> str | None:
    """None for any other error, which keeps its traceback."""
    if isinstance(error, PoolTimeout) or (isinstance(error, Exception) and is_passing(error)):
        return DATABASE
    if isinstance(error, QUEUE_IS_AWAY) and not isinstance(error, SQLAlchemyError):
        return QUEUE
    return None
