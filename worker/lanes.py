"""The threads that send. Each sleeps until it is woken, then works until nothing is due."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from utils.errors import AcceptanceUnknown, StorageUnavailable

LOOK_SECONDS = 0.5

logger = logging.getLogger(__name__)


class Lanes:
    """`send`: sends what is due until nothing is. `stopping`: ends the threads that run `work`."""

    def __init__(self, send: Callable[[], object], count: int, stopping: threading.Event) -> None:
        self.count = count
        self._send = send
        self._stopping = stopping
        self._change = threading.Condition()
        self._idle = 0
        self._wanted = 0

    def wake_one(self) -> bool:
        """Whether one was idle. Where none is, the next that has no more to do looks once more."""
        with self._change:
            was_idle = self._wanted < self._idle
            self._wanted = min(self._wanted + 1, self.count)
            self._change.notify()
            return was_idle

    def work(self) -> None:
        """What each of the threads runs."""
        while not self._stopping.is_set():
            if not self._wait():
                continue
            try:
                self._send()
            except (SQLAlchemyError, StorageUnavailable, AcceptanceUnknown):
                # The rows of a claim of which nobody knows come back with the end of its lease.
                logger.warning("nothing is sent: no database", exc_info=True)

    def _wait(self) -> bool:
        with self._change:
            self._idle += 1
            try:
                if not self._change.wait_for(lambda: self._wanted > 0, LOOK_SECONDS):
                    return False
                self._wanted -= 1
                return True
            finally:
                self._idle -= 1
