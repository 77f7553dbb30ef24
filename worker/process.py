"""The worker process: sending threads, periodic work and the ticker.

Tasks carry nothing, the rows do: a task only wakes a worker or does the minute's work. Losing every one of
them costs half a second, the ticker's next look. With an engine that is down or hangs, the ticker wakes the sending
threads, and the minute's work is done a little later.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from huey import crontab
from huey.consumer import Consumer
from sqlalchemy.exc import SQLAlchemyError

from messaging.batches.importer import import_next
from messaging.batches.upkeep import BatchUpkeep
from messaging.callbacks.received import apply_received
from messaging.conversations.handler_runner import Answerer
from messaging.conversations.handlers import require_handlers
from messaging.forwarding import delivery
from messaging.operations import account_check, health, sweep
from messaging.operations.health import require_migrated
from messaging.operations.outages import DATABASE, QUEUE, Outages
from messaging.operations.recovery import Recoverer
from messaging.sending import claim, due, pauses
from messaging.sending.sender import MessageSender, worker_name
from messaging.service import Service, build_service
from messaging.storage.task_queue import (
    QUEUE_ERRORS,
    QUEUE_NAME,
    Waker,
    create_queue,
    declare_send_due,
    first_line,
    require_queue_tables,
)
from utils.errors import Recovering, ServiceError, WitnessUnwritable
from utils.logs import configure_logging
from utils.settings import load_settings
from worker.lanes import Lanes
from worker.stop_signals import StopSignals
from worker.work_of_test_keys import WorkOfTestKeys

TICK_SECONDS = 0.5
# The engine asks for a sweep each minute; a worker that got none for longer does not wait for it.
OWN_SWEEP_SECONDS = 75.0
SWEEP_AGAIN_SECONDS = 5.0
# As a task of the minute beside a minute's wait a probe came after up to two: the one at 59.6 s was too early.
PROBE_LOOK_SECONDS = 5.0
# A report counts within 0.2 s. An idle look is one question to an index that is empty then.
APPLY_SECONDS = 0.1
APPLY_AGAIN_SECONDS = 1.0
# Beyond the deadline of a POST: its record waits for a database that restarts.
STOP_SECONDS = claim.LEASE_AFTER_TIMEOUT.total_seconds()
# What is under way when the worker stops; an event that is cut off comes again.
FORWARD_STOP_SECONDS = 15.0
HEALTH_CHECK_SECONDS = 5.0
# Of the task engine. A wake-up is done at once, so the minute's work never waits.
TASK_THREADS = 2

logger = logging.getLogger(__name__)


class Worker:
    """The sending threads, the minute's work and the ticker, in one process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._outages = Outages()
        queue = create_queue(service.settings)
        self._waker = Waker(service.settings)
        service.database.wake = self.wake
        self._send_due = declare_send_due(queue, self.send_due)
        queue.periodic_task(crontab(minute="*"), name="sweep", __module__=QUEUE_NAME)(self.sweep_as_task)
        self._consumer = Consumer(
            queue,
            workers=TASK_THREADS,
            initial_delay=0.02,
            # The default backs off to ten seconds.
            max_delay=0.2,
        )
        self._stopping: threading.Event = self._consumer.stop_flag
        self._answerer = Answerer(service.settings, service.database, self._stopping)
        self._apply_received = partial(apply_received, service.database, service.settings)
        self._sender = MessageSender(
            service.settings, service.database, service.provider, self._stopping, self._apply_received
        )
        self._lanes = Lanes(self._sender.run_until_idle, service.settings.worker_concurrency, self._stopping)
        self._recoverer = Recoverer(service.settings, service.database, service.provider)
        self._swept_at = -math.inf
        self._threads: dict[str, threading.Thread] = {}
        self._targets: dict[str, Callable[[], None]] = {
            "ticker": self.tick,
            "importer": self.import_files,
            "sweeper": self.sweep_unasked,
            "prober": self.probe,
            "recoverer": self.recover,
            "applier": self.apply_reports,
            "answerer": self._answerer.run,
            "forwarder": self.forward,
            **{self._lane_name(number): self._lanes.work for number in range(self._lanes.count)},
            **WorkOfTestKeys(service, self._stopping).targets,
        }

    @staticmethod
    def _lane_name(number: int) -> str:
        return f"sender {number}"

    def send_due(self) -> None:
        """Where another process wakes this one."""
        self._answerer.nudge()
        self._lanes.wake_one()

    def wake(self) -> None:
        """A thread of this process, which costs no task. With all of them busy another process may have one idle."""
        self._answerer.nudge()
        if not self._lanes.wake_one():
            self._waker()

    def sweep_as_task(self) -> None:
        with contextlib.suppress(Recovering):
            self.sweep()

    def sweep(self) -> None:
        """Counts once it has succeeded: a lost task or an error would else cost a whole minute."""
        swept = sweep.sweep(self._service.database, self._service.settings)
        # A report that was parked while its message became unknown was adopted by neither side, for each looked
        # before the other committed: so once more at once, not a minute later.
        self._swept_at = -math.inf if swept.unknown else time.monotonic()

    def probe(self) -> None:
        """A thread of its own: neither a long sweep nor an engine that is down keeps a pause for longer."""
        while not self._stopping.wait(PROBE_LOOK_SECONDS):
            try:
                pauses.probe(self._service.database, self._service.provider)
            except SQLAlchemyError:
                logger.warning("nothing is probed: no database", exc_info=True)

    def recover(self) -> None:
        """A thread of its own: while a recovery is open nothing else is done, and the inbox may take a while."""
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self._recoverer.step()
            except (SQLAlchemyError, OSError):
                logger.warning("a recovery waits", exc_info=True)

    def tick(self) -> None:
        """Finds what no wake-up announced: a backoff that ended, `send_at`, a lost task."""
        next_beat = 0.0
        upkeep = BatchUpkeep(self._service.database)
        while not self._stopping.wait(TICK_SECONDS):
            try:
                if time.monotonic() >= next_beat or self._outages.is_on(DATABASE):
                    self._beat()
                    self._look_for_the_end()
                    next_beat = time.monotonic() + health.HEARTBEAT_INTERVAL.total_seconds()
                upkeep.look()
                if due.has_due(self._service.database, self._sender.looks):
                    self.wake()
            except SQLAlchemyError:
                logger.warning("the database cannot be reached", exc_info=True)

    def _beat(self) -> None:
        """The witness remembers how high the counter was: a database where it is lower went backwards."""
        with contextlib.suppress(Recovering, WitnessUnwritable):
            beat = health.beat(self._service.database, worker_name())
            if beat is not None:
                self._sender.witness.note_beat(beat)

    def _look_for_the_end(self) -> None:
        """A heartbeat is a write: where it is stored, the database is well."""
        self._outages.end(DATABASE)
        if self._outages.is_on(QUEUE) and health.queue_problem(self._service.settings.queue_url) is None:
            self._outages.end(QUEUE)

    def sweep_unasked(self) -> None:
        """The minute's work: at the start, and where the engine has not asked for it in time.

        The first sweep finds what a dead worker left. As a task it was lost where the engine's store failed for a
        moment, and the next one came a minute later.
        """
        wait_seconds = 0.0
        while not self._stopping.wait(wait_seconds):
            wait_seconds = TICK_SECONDS
            if time.monotonic() - self._swept_at < OWN_SWEEP_SECONDS:
                continue
            try:
                self.sweep()
            except SQLAlchemyError:
                logger.warning("nothing is swept: no database", exc_info=True)
                wait_seconds = SWEEP_AGAIN_SECONDS
            except Recovering:
                wait_seconds = SWEEP_AGAIN_SECONDS

    def apply_reports(self) -> None:
        """Looks by itself, ten times a second: a task for each report would cost more than the report."""
        wait_seconds = 0.0
        while not self._stopping.wait(wait_seconds):
            wait_seconds = APPLY_SECONDS
            try:
                self._apply_received(self._stopping.is_set)
            except SQLAlchemyError:
                logger.warning("reports are not applied: no database", exc_info=True)
                wait_seconds = APPLY_AGAIN_SECONDS

    def import_files(self) -> None:
        """Makes uploaded files into messages, one at a time, in a thread of its own beside the sending threads."""
        service = self._service
        while not self._stopping.wait(TICK_SECONDS):
            try:
                while import_next(service.database, service.settings, self._stopping.is_set):
                    pass
            except SQLAlchemyError:
                logger.warning("the database cannot be reached", exc_info=True)
            except Recovering:
                continue

    def forward(self) -> None:
        """A thread of its own: however dead the receiver, it delays nothing else."""
        forwarder = delivery.build_forwarder(self._service.settings, self._service.database, self._stopping)
        while not self._stopping.wait(TICK_SECONDS):
            try:
                if forwarder is not None:
                    forwarder.run_until_idle()
            except SQLAlchemyError:
                logger.warning("events cannot be forwarded: no database", exc_info=True)

    def run(self) -> None:
        """Until SIGTERM or SIGINT: then each thread finishes its POST, records it and lets go of the rest.

        Huey's own handlers interrupt tasks at SIGTERM, or at a second signal; ours only ever ask.
        """
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._outages)
        settings = self._service.settings
        note = {"worker": worker_name(), "threads": self._lanes.count, "provider": settings.provider_host}
        logger.info("the worker starts", extra=note)
        if settings.reply_notice:
            logger.warning(settings.reply_notice)
        self._consumer.start()
        signals = StopSignals()
        self.keep_alive()
        while not signals.wait(HEALTH_CHECK_SECONDS):
            self._consumer.check_worker_health()
            self.keep_alive()
        self.stop()
        logger.info("the worker stops: what is under way ends first")
        names = [self._lane_name(number) for number in range(self._lanes.count)]
        lanes = [self._threads[name] for name in (*names, WorkOfTestKeys.SENDER)]
        self._await_posts([*lanes, *(thread for _, thread in self._consumer.worker_threads)])
        # Ticker, importer, sweeper and applier: killed at any point they lose nothing, so nobody waits for them.
        self._threads["answerer"].join()
        self._threads["forwarder"].join(FORWARD_STOP_SECONDS)
        logger.info("the worker has stopped")

    def keep_alive(self) -> None:
        """Starts what does not run. A thread that an error has ended is logged and replaced."""
        for name, target in self._targets.items():
            former = self._threads.get(name)
            if former is not None and former.is_alive():
                continue
            if former is not None:
                logger.error(
                    "a thread of the worker had ended and is started again", extra={"thread_name": name}
                )
            self._threads[name] = threading.Thread(target=target, name=name, daemon=True)
            self._threads[name].start()

    def _await_posts(self, threads: Sequence[threading.Thread]) -> None:
        """As long as a POST and its record may take; a thread that the engine keeps hanging has neither."""
        deadline = time.monotonic() + self._service.settings.at_timeout_seconds + STOP_SECONDS
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def stop(self) -> None:
        self._stopping.set()


def _log_the_end(ended: threading.ExceptHookArgs) -> None:
    """Python's own hook prints past the log, with whatever number or text the error quotes."""
    name = ended.thread.name if ended.thread is not None else None
    logger.error("an error has ended a thread", exc_info=ended.exc_value, extra={"thread_name": name})


def main() -> int:
    try:
        settings = load_settings()
        settings.require_provider()
        configure_logging(settings.log_level, settings.secrets, settings.log_format)
        require_handlers(settings)
        service = build_service(settings)
        require_migrated(service.database)
        account_check.claim_identity(service.database, settings)
        require_queue_tables(settings)
        worker = Worker(service)
        threading.excepthook = _log_the_end
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except QUEUE_ERRORS as error:
        sys.stderr.write(f"QUEUE_URL cannot be used: {first_line(error)}\n")
        return 1
    worker.run()
    return 0
