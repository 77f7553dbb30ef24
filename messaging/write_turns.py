"""Turns at SQLite's one write lock, for the processes of one machine.

SQLite has a process that finds the lock taken look again after 1, 2, 5 … 100 ms: it sleeps through the moment
in which the lock is free and meets the next holder. Beside an import, which is one after another, callbacks
took 438/s, p99 87 ms; with the file of this module, at which a process looks every millisecond, 549/s, 39 ms.

Only the order is made here: SQLite's own lock still keeps apart who writes, this module's users and others.
The kernel takes back the turn of a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A process that was stopped may hold the turn, and SQLite's lock or not: then SQLite decides.
PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 0.001


class WriteTurns:
    """`taken()` once at a time: the threads of a process queue before they come here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        if self._descriptor is None:
            # Not before: a process that forks first would share one turn with its children.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        is_mine = _wait_for(self._descriptor)
        try:
            yield
        finally:
            if is_mine:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _wait_for(descriptor: int) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _try(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
