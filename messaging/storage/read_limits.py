"""Reads that may take long: each ends at its deadline, or once nobody waits for its result any more.

A caller who left, or who asks for too much, would otherwise keep a thread and a core from the callbacks.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from utils.errors import TooSlow

LOOK_SECONDS = 0.25
CANCEL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Limit:
    ends_at: float
    is_wanted: Callable[[], bool]

    def is_over(self) -> bool:
        return time.monotonic() > self.ends_at or not self.is_wanted()


_current: ContextVar[_Limit | None] = ContextVar("read_limit", default=None)


@contextmanager
def limited_reads(seconds: float, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Reads begun in here end after so many seconds together, or once `is_wanted` says no. They raise TooSlow."""
    token = _current.set(_Limit(time.monotonic() + seconds, is_wanted))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def within_limit(connection: Connection) -> Iterator[None]:
    """Costs nothing where no limit is set."""
    limit = _current.get()
    if limit is None:
        yield
        return
    watch = _Watch(connection.connection.dbapi_connection, limit)
    watcher = threading.Thread(target=watch.run, name="read-limit", daemon=True)
    watcher.start()
    try:
        yield
    except DBAPIError as error:
        if watch.has_cancelled:
            raise TooSlow from error
        raise
    finally:
        watch.end()
        watcher.join()
        if watch.has_cancelled:
            # PostgreSQL may act on the request late: it must not meet the next user of this connection.
            connection.invalidate()


@dataclass(slots=True)
class _Watch:
    driver_connection: Any
    limit: _Limit
    has_cancelled: bool = False
    _done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Cancels again at each look: one request ends only the statement that runs at that moment."""
        while not self._done.wait(LOOK_SECONDS):
            if self.limit.is_over():
                self.has_cancelled = True
                _cancel(self.driver_connection)

    def end(self) -> None:
        self._done.set()


def _cancel(driver_connection: Any) -> None:
    if isinstance(driver_connection, sqlite3.Connection):
        driver_connection.interrupt()
    else:
        import psycopg

        # A server that does not take the request is asked again at the next look.
        with suppress(psycopg.Error):
            driver_connection.cancel_safe(timeout=CANCEL_SECONDS)
