"""A file lock in front of SQLite's one write lock, for the processes of one machine.

SQLite has a process that finds the lock taken look again after 1, 2, 5 … 100 ms: it sleeps through the moment
in which the lock is free and meets the next holder. Beside an import, which is one after another, callbacks
took 438/s, p99 87 ms; with the file of this module, at which a process looks every millisecond, 549/s, 39 ms.

Only the order is made here: SQLite's own lock still keeps apart who writes, this module's users and others.
The kernel releases the lock of a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A stopped process may hold this lock, with or without SQLite's. After the time-out SQLite decides; for a while
# then without waiting here.
TIMEOUT_SECONDS = 10.0
SKIPPED_SECONDS = 60.0
LOOK_SECONDS = 0.001


class SqliteWriteLock:
    """`held()` once at a time: the threads of a process queue before they come here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._skipped_until = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        descriptor = self._open()
        if descriptor is None or not self._wait_for(descriptor):
            yield
            return
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _open(self) -> int | None:
        """None where the file cannot be had (another user's, a full disk): then there is no order, no more."""
        if self._descriptor is None:
            # Not before: a process that forks first would share one lock with its children. Whoever can read it
            # can lock it, so it is the service's alone.
            with suppress(OSError):
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def _wait_for(self, descriptor: int) -> bool:
        deadline = time.monotonic() + (0.0 if time.monotonic() < self._skipped_until else TIMEOUT_SECONDS)
        while not _try(descriptor):
            if time.monotonic() > deadline:
                self._skipped_until = time.monotonic() + SKIPPED_SECONDS
                return False
            time.sleep(LOOK_SECONDS)
        self._skipped_until = 0.0
        return True

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
