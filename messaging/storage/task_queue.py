"""The task engine's store, and the wake-ups that go through it: what web and worker must agree on.

A wake-up is a courtesy: the rows are committed, and the worker's own look finds them. So it never costs the
one who commits anything, whether the store is slow, gone, or accepts and never answers.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import redis
from huey import Huey, PostgresHuey, RedisHuey, SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer

from messaging.storage.database import LINE_CHECKS
from utils.errors import ServiceError, StorageUnavailable
from utils.logs import mask
from utils.private_files import make_private, make_private_folder
from utils.settings import Settings

QUEUE_NAME = "sms"
WAKE_INTERVAL_SECONDS = 0.05
# After a failure: a store that is down would otherwise fill the log twenty times a second.
PAUSE_AFTER_FAILURE_SECONDS = 1.0
LAST_WAKE_SECONDS = 1.0
# Longer than the engine's own wait for a task in Redis (1 s), which counts as silence too.
QUEUE_TIMEOUT_SECONDS = 5
QUEUE_ERRORS = (sqlite3.Error, psycopg.Error, redis.RedisError, OSError)

# Any number that is ours, beside that of the migrations.
QUEUE_LOCK = 7267
# The engine makes several, one after the other: where this one is, all are.
LAST_TABLE = "huey_counter"

logger = logging.getLogger(__name__)


class NoQueueTables(ServiceError):
    code = "not_migrated"
    sentence = "The task queue's tables are missing: run `flask --app app sms migrate`"


class JsonSerializer(Serializer):
    """Huey pickles by default: whoever can write to the queue could then run code in the worker."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps(data._replace(eta=None, expires_resolved=None)).encode()

    def _deserialize(self, data: bytes) -> Message:
        return Message(*json.loads(data))


def create_queue(settings: Settings) -> Huey:
    """`QUEUE_URL` decides: SQLite, PostgreSQL or Redis, the same tasks.

    On PostgreSQL the tables have to be there (`make_queue_tables`).
    """
    url = settings.queue_url
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        make_private_folder(path.parent)
        make_private(path)
        return SqliteHuey(filename=str(path), fsync=False, **_options())
    if url.startswith("postgresql://"):
        return _on_postgresql(url, create_tables=False)
    # A pool of our own: beside a URL the engine takes no timeouts, and without them a read has no end.
    pool = redis.ConnectionPool.from_url(
        url, socket_timeout=QUEUE_TIMEOUT_SECONDS, socket_connect_timeout=QUEUE_TIMEOUT_SECONDS
    )
    return RedisHuey(connection_pool=pool, **_options())


def make_queue_tables(settings: Settings) -> None:
    """For `sms migrate`. Two processes that make the engine's tables at once lose one of them: PostgreSQL's
    `IF NOT EXISTS` is no lock. Nothing to do for Redis; SQLite's file is made by whoever comes first.

    Raises StorageUnavailable.
    """
    url = settings.queue_url
    if not url.startswith("postgresql://"):
        return
    try:
        with psycopg.connect(url, autocommit=True, **_line()) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [QUEUE_LOCK])
            if not _has_tables(connection):
                _on_postgresql(url, create_tables=True).storage.close()
    except psycopg.Error as error:
        raise StorageUnavailable(f"QUEUE_URL cannot be used: {first_line(error)}") from error


def require_queue_tables(settings: Settings) -> None:
    """For a process that reads the queue. Raises QUEUE_ERRORS where it cannot be reached, NoQueueTables."""
    url = settings.queue_url
    if url.startswith("postgresql://"):
        with psycopg.connect(url, **_line()) as connection:
            if not _has_tables(connection):
                raise NoQueueTables


def first_line(error: BaseException) -> str:
    """What a driver says, without a password that it quotes."""
    return mask(str(error).partition("\n")[0])


def _on_postgresql(url: str, *, create_tables: bool) -> Huey:
    return PostgresHuey(dsn=url, create_tables=create_tables, **_line(), **_options())


def _line() -> dict[str, Any]:
    return {"connect_timeout": QUEUE_TIMEOUT_SECONDS, **LINE_CHECKS}


def _has_tables(connection: psycopg.Connection) -> bool:
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [LAST_TABLE]).fetchone()
    return bool(found and found[0])


def _options() -> dict[str, Any]:
    return {"name": QUEUE_NAME, "results": False, "serializer": JsonSerializer()}


def declare_send_due(queue: Huey, send: Callable[[], None]) -> Callable[[], object]:
    """The one task that web and worker must name alike, from whatever module they were started."""
    declared: Callable[[], object] = queue.task(name="send_due", __module__=QUEUE_NAME)(send)
    return declared


class Waker:
    """Tells a worker that rows are due, at most every 50 ms, and never later than that after the last commit.

    A call only leaves word. The thread that passes it on starts at first use, in the process that uses it:
    one made before a fork would not exist after.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._starting = threading.Lock()
        self._process_id: int | None = None
        self._is_wanted = threading.Event()
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._send_due: Callable[[], object] | None = None

    def __call__(self) -> None:
        if self._process_id != os.getpid():
            self._start()
        self._is_idle.clear()
        self._is_wanted.set()

    def finish(self) -> None:
        """Gives the last wake-up a moment, for a command that ends with its commit."""
        self._is_idle.wait(LAST_WAKE_SECONDS)

    def _start(self) -> None:
        with self._starting:
            if self._process_id == os.getpid():
                return
            threading.Thread(target=self._run, name="waker", daemon=True).start()
            atexit.register(self.finish)
            self._process_id = os.getpid()

    def _run(self) -> None:
        while True:
            self._is_wanted.wait()
            self._is_wanted.clear()
            has_woken = self._wake()
            if not self._is_wanted.is_set():
                self._is_idle.set()
            time.sleep(WAKE_INTERVAL_SECONDS if has_woken else PAUSE_AFTER_FAILURE_SECONDS)

    def _wake(self) -> bool:
        try:
            if self._send_due is None:
                self._send_due = declare_send_due(create_queue(self._settings), _nothing)
            self._send_due()
        except QUEUE_ERRORS:
            logger.warning("no wake-up: the queue cannot be reached", exc_info=True)
            return False
        return True


def _nothing() -> None:
    return None
