"""Every step by which a process changes or asks what is outside of it: statement, commit, socket, file.

`watch` counts them in this process, for good. Each is told before it is done, so to end the process at step k leaves
what the first k-1 steps have done. What lies between two steps is memory, which a dying process loses anyway.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import psycopg
from sqlalchemy.engine.default import DefaultDialect

CHANGES_FILES = ("os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


class Steps:
    """`names`: what was done, in order. `is_free`: at which of them the process held no lock of a store."""

    def __init__(self, wanted: int, then: Callable[[], None]) -> None:
        """`then` is called at step number `wanted`; 0 means at none."""
        self.names: list[str] = []
        self.is_free: list[bool] = []
        self._wanted = wanted
        self._then = then
        self._held: set[object] = set()
        self._lock = threading.RLock()
        self._is_over = False

    def take(self, name: str) -> None:
        with self._lock:
            if self._is_over:
                return
            self.names.append(name)
            self.is_free.append(not self._held)
            if len(self.names) == self._wanted:
                self._then()

    def hold(self, lock: object) -> None:
        self._held.add(lock)

    def let_go(self, lock: object) -> None:
        self._held.discard(lock)

    def end(self) -> None:
        """Nothing is counted any more: the run is over."""
        self._is_over = True


def watch(steps: Steps) -> None:
    _watch_statements(steps)
    _watch_sockets(steps)
    _watch_files(steps)


def _watch_statements(steps: Steps) -> None:
    def before_statement(_dialect: Any, cursor: Any, statement: str, *_: Any) -> None:
        steps.take(_in_short(statement))
        steps.hold(id(cursor.connection))

    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        _put_before(DefaultDialect, name, before_statement)
    commit, rollback = DefaultDialect.do_commit, DefaultDialect.do_rollback

    def do_commit(dialect: Any, connection: Any) -> None:
        is_transaction = id(getattr(connection, "driver_connection", connection)) in steps._held
        if is_transaction:
            steps.take("COMMIT")
        commit(dialect, connection)
        steps.let_go(id(getattr(connection, "driver_connection", connection)))
        if is_transaction:
            steps.take("after COMMIT")

    def do_rollback(dialect: Any, connection: Any) -> None:
        rollback(dialect, connection)
        steps.let_go(id(getattr(connection, "driver_connection", connection)))

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]
    DefaultDialect.do_rollback = do_rollback  # type: ignore[method-assign]
    _put_before(psycopg.Cursor, "copy", lambda *_: steps.take("COPY"))


def _watch_sockets(steps: Steps) -> None:
    send, receive = socket.socket.sendall, socket.socket.recv_into

    def sendall(self: socket.socket, content: Any, *flags: int) -> None:
        """In two halves: a process may die, or be stopped, in the middle of a request."""
        whole = memoryview(content)
        half = len(whole) // 2
        steps.take("socket write")
        send(self, whole[:half], *flags)
        steps.take("socket write, half of it gone")
        send(self, whole[half:], *flags)

    def recv_into(self: socket.socket, *arguments: Any) -> int:
        steps.take("socket read")
        return receive(self, *arguments)

    socket.socket.sendall = sendall  # type: ignore[assignment]
    socket.socket.recv_into = recv_into  # type: ignore[assignment]
    _put_before(socket.socket, "connect", lambda *_: steps.take("socket connect"))


def _watch_files(steps: Steps) -> None:
    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES_FILES or (event == "open" and _is_write(arguments)):
            steps.take(event)

    sys.addaudithook(hear)
    for name in ("write", "fsync", "fdatasync"):
        _put_before(os, name, lambda *_, name=name: steps.take(f"os.{name}"))
    # Between two pieces of a copy that SQLite makes.
    _put_before(time, "sleep", lambda *_: steps.take("a pause"))
    _put_before(subprocess.Popen, "__init__", lambda *_, **__: steps.take("another program"))
    flock = fcntl.flock

    def count_lock(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        change = steps.let_go if operation & fcntl.LOCK_UN else steps.hold
        change(("file lock", descriptor))

    fcntl.flock = count_lock


def _is_write(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if str(path) == os.devnull:
        return False
    return bool(set(mode) & set("wax+")) if mode is not None else bool(flags & WRITES)


def _put_before(owner: Any, name: str, before: Callable[..., object]) -> None:
    original = getattr(owner, name)

    @wraps(original)
    def counted(*arguments: Any, **named: Any) -> Any:
        before(*arguments, **named)
        return original(*arguments, **named)

    setattr(owner, name, counted)


def _in_short(statement: str) -> str:
    words = statement.split()
    return " ".join(words[:4] if words[0] in ("INSERT", "DELETE", "SELECT") else words[:2])[:60]
