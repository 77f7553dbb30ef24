"""The worker's work for test keys: what they send is imported, sent, reported and forwarded as live texts are, by
threads of its own on a store of its own.

No task queue: these threads look by themselves, twice a second. While there is no test key they ask the live
database every few seconds whether there is one now, and do nothing else. Whatever fails here is told in the log
and tried again; it ends neither the worker nor one of its live threads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from messaging.batches.importer import import_next
from messaging.batches.upkeep import BatchUpkeep
from messaging.callbacks.received import apply_received
from messaging.forwarding import delivery
from messaging.operations import health, sweep
from messaging.operations.recovery import Recoverer
from messaging.operations.store_of_test_keys import StoreOfTestKeys
from messaging.reports import adoption
from messaging.sending import due, pauses
from messaging.sending.sender import MessageSender, worker_name
from messaging.service import Service
from messaging.storage.task_queue import first_line
from utils.errors import Recovering, WitnessUnwritable
from utils.logs import is_of_test_key

LOOK_SECONDS = 0.5
FIRST_LOOK_SECONDS = 3.0
AGAIN_SECONDS = 5.0
SWEEP_SECONDS = 60.0
PROBE_SECONDS = 5.0
# The stand-in's reports come before its answer: where that is lost, its texts are unknown only after they were parked.
ADOPT_SECONDS = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    service: Service
    sender: MessageSender


class WorkOfTestKeys:
    """`targets`: what the threads run, by their names. They end when `stopping` is set."""

    SENDER, KEEPER, FORWARDER = "test sender", "test keeper", "test forwarder"

    def __init__(self, live: Service, stopping: threading.Event) -> None:
        self._test_keys = StoreOfTestKeys(live)
        self._stopping = stopping
        self._making = threading.Lock()
        self._parts: _Parts | None = None
        self._periods = {
            self._beat: health.HEARTBEAT_INTERVAL.total_seconds(),
            self._probe: PROBE_SECONDS,
            self._adopt: ADOPT_SECONDS,
            self._sweep: SWEEP_SECONDS,
        }
        self._due_at = dict.fromkeys(self._periods, 0.0)
        self.targets: dict[str, Callable[[], None]] = {self.SENDER: self._send, self.KEEPER: self._keep}
        if live.settings.forward_url is not None:
            self.targets[self.FORWARDER] = self._forward

    def _send(self) -> None:
        parts = self._await_parts()
        while parts is not None and not self._stopping.wait(LOOK_SECONDS):
            with self._surviving():
                while import_next(parts.service.database, parts.service.settings, self._stopping.is_set):
                    pass
                if due.has_due(parts.service.database, parts.sender.looks):
                    parts.sender.run_until_idle()

    def _keep(self) -> None:
        """What time and the provider's reports make of test data."""
        parts = self._await_parts()
        if parts is None:
            return
        service = parts.service
        recoverer = Recoverer(service.settings, service.database, service.provider)
        upkeep = BatchUpkeep(service.database)
        while not self._stopping.wait(LOOK_SECONDS):
            with self._surviving():
                recoverer.step()
                apply_received(service.database, service.settings, self._stopping.is_set)
                upkeep.look()
                self._do_what_is_due(parts)

    def _forward(self) -> None:
        parts = self._await_parts()
        if parts is None:
            return
        service = parts.service
        forwarder = delivery.build_forwarder(service.settings, service.database, self._stopping)
        while forwarder is not None and not self._stopping.wait(LOOK_SECONDS):
            with self._surviving():
                forwarder.run_until_idle()

    def _do_what_is_due(self, parts: _Parts) -> None:
        for act, seconds in self._periods.items():
            if time.monotonic() >= self._due_at[act]:
                act(parts)
                self._due_at[act] = time.monotonic() + seconds

    def _beat(self, parts: _Parts) -> None:
        beat = health.beat(parts.service.database, worker_name())
        if beat is not None:
            parts.sender.witness.note_beat(beat)

    def _probe(self, parts: _Parts) -> None:
        pauses.probe(parts.service.database, parts.service.provider)

    def _adopt(self, parts: _Parts) -> None:
        if parts.service.settings.adopt_by_number:
            adoption.adopt_by_number(parts.service.database)

    def _sweep(self, parts: _Parts) -> None:
        sweep.sweep(parts.service.database, parts.service.settings)

    def _await_parts(self) -> _Parts | None:
        """Once there is a test key; None where the worker stops before."""
        is_of_test_key.set(True)
        parts = None
        while parts is None and not self._stopping.is_set():
            with self._surviving():
                parts = self._opened()
            if parts is None:
                self._stopping.wait(FIRST_LOOK_SECONDS)
        return parts

    def _opened(self) -> _Parts | None:
        with self._making:
            if self._parts is None and self._test_keys.are_used():
                service = self._test_keys.open()
                hear = partial(apply_received, service.database, service.settings)
                sender = MessageSender(
                    service.settings, service.database, service.provider, self._stopping, hear
                )
                self._parts = _Parts(service, sender)
            return self._parts

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except (Recovering, WitnessUnwritable):
            self._stopping.wait(LOOK_SECONDS)
        except Exception as error:  # noqa: BLE001 (nothing of test keys may reach the live side)
            # Without the error itself: its words may quote anything, and each look would write a traceback.
            said = first_line(error) if isinstance(error, SQLAlchemyError) else ""
            note = {"error": type(error).__name__, "says": said}
            logger.error("the work for test keys failed and is tried again", extra=note)  # noqa: TRY400
            self._stopping.wait(AGAIN_SECONDS)
