"""The threads that post owed callbacks: one finds what is due and writes what came of it, the others post."""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable

from . import owed as book
from .config import Config
from .owed import Attempt, Owed
from .service_line import ServiceLine
from .store import Store

log = logging.getLogger(__name__)

BATCH = 256
IDLE_SECONDS = 0.5
BUSY_SECONDS = 0.02


class Courier:
    """Nothing runs before ``start``. An attempt is remembered in memory until its outcome is committed, so a crash
    between the two makes AT post the same callback again: as the real one may.
    """

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._due: queue.SimpleQueue[Owed | None] = queue.SimpleQueue()
        self._in_flight: set[int] = set()
        self._epoch = store.epoch
        self._attempts: list[Attempt] = []
        self._attempts_lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        targets = [self._dispatch] + [self._post_due] * self._config.callback_threads
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._is_stopping = True
        self._wake.set()
        for _ in range(self._config.callback_threads):
            self._due.put(None)
        for thread in self._threads:
            thread.join(timeout=1)

    def wake(self) -> None:
        """Something new may be due."""
        self._wake.set()

    def deliver_now(self, ids: range) -> None:
        """Post these in the caller's thread and come back when each was tried once."""
        line = self._open_line()
        attempts = [self._try(line, callback) for callback in book.callbacks_by_id(self._store, ids)]
        line.close()
        book.settle(self._store, attempts, self._config.callback_retry_seconds)

    def _open_line(self) -> ServiceLine:
        config = self._config
        return ServiceLine(config.service_url, config.token, config.callback_timeout_seconds)

    def _try(self, line: ServiceLine, callback: Owed) -> Attempt:
        # AT's content type is seen with and without a charset.
        result = line.post(callback.kind, callback.body, with_charset=callback.id % 2 == 0)
        return Attempt(callback, result, time.time())

    def _post_due(self) -> None:
        line = self._open_line()
        while callback := self._due.get():
            if callback.epoch == self._store.epoch:
                self._report_back(self._try(line, callback))
        line.close()

    def _report_back(self, attempt: Attempt) -> None:
        with self._attempts_lock:
            self._attempts.append(attempt)
        if self._due.empty():
            self._wake.set()

    def _dispatch(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                self._take_a_round()
                pause_seconds = self._pause_seconds()
            except sqlite3.Error:
                # What was in the air is posted again: at least once, like AT.
                log.exception("The simulator's database failed; callbacks wait")
                self._in_flight.clear()
                pause_seconds = IDLE_SECONDS
            self._wake.wait(pause_seconds)

    def _take_a_round(self) -> None:
        self._settle()
        if self._epoch != self._store.epoch:
            self._epoch = self._store.epoch
            self._in_flight.clear()
        self._hand_out()

    def _settle(self) -> None:
        with self._attempts_lock:
            attempts, self._attempts = self._attempts, []
        if attempts:
            book.settle(self._store, attempts, self._config.callback_retry_seconds)
            self._in_flight.difference_update(attempt.owed.id for attempt in attempts)

    def _hand_out(self) -> None:
        if len(self._in_flight) >= BATCH:
            return
        for callback in self._new_due():
            self._in_flight.add(callback.id)
            self._due.put(callback)

    def _new_due(self) -> Iterable[Owed]:
        due = book.due_callbacks(self._store, time.time(), BATCH + len(self._in_flight))
        return [callback for callback in due if callback.id not in self._in_flight]

    def _pause_seconds(self) -> float:
        if self._in_flight:
            return BUSY_SECONDS
        next_due_at = book.next_due_at(self._store)
        return IDLE_SECONDS if next_due_at is None else min(max(next_due_at - time.time(), 0.0), IDLE_SECONDS)
