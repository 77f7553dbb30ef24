"""One line where the database or the queue goes away, and one where it is back: every thread of a worker and every
request meets it, and each would write a traceback."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Collection
from typing import NamedTuple

import psycopg
import redis
from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from messaging.storage.database import Database
from messaging.storage.retrying import is_passing
from messaging.storage.task_queue import first_line
from utils.logs import LogHandler, is_of_test_key

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

    def __init__(self, stores: Collection[str] = (DATABASE, QUEUE)) -> None:
        """`stores`: those of which somebody will say `end`."""
        super().__init__()
        self._stores = stores
        self._lock = threading.Lock()
        self._now: dict[str, _Outage] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        store = store_of(error)
        if store is None or error is None or store not in self._stores:
            return True
        if is_of_test_key.get():
            # Another store, whose outage is none of the service's.
            return _shorten(record, "the store of test keys cannot be used", error)
        if not self._is_first(store):
            return False
        return _shorten(record, f"the {store} cannot be used: an outage begins", error)

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


def _shorten(record: logging.LogRecord, sentence: str, error: BaseException) -> bool:
    record.msg, record.args = sentence, ()
    record.exc_info = record.exc_text = None
    record.error = first_line(error)
    return True


def watch(database: Database) -> None:
    """For a process without a heartbeat: whatever gets a connection that works says that the outage is over; where a
    write failed, only once another one was committed."""
    outages = Outages((DATABASE,))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.addFilter(outages)

    def end(_connection: Connection) -> None:
        if not database.last_write_failed:
            outages.end(DATABASE)

    event.listen(database.engine, "begin", end)


def store_of(error: BaseException | None) -> str | None:
    """None for any other error, which keeps its traceback."""
    if isinstance(error, PoolTimeout) or (isinstance(error, Exception) and is_passing(error)):
        return DATABASE
    if isinstance(error, QUEUE_IS_AWAY) and not isinstance(error, SQLAlchemyError):
        return QUEUE
    return None
