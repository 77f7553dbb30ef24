"""The task engine's entry point: `python -m tasks` is the worker.

Tasks carry nothing, the rows do: a task only wakes a worker or does the minute's work. Losing every one of
them costs half a second, the ticker's next look.
"""

from __future__ import annotations

import json
import logging
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import psycopg
import redis
from huey import Huey, PostgresHuey, RedisHuey, SqliteHuey, crontab
from huey.consumer import Consumer
from huey.registry import Message
from huey.serializer import Serializer
from sqlalchemy.exc import SQLAlchemyError

from messaging import claims, forward_delivery, heartbeats, identity, probes, sweeps
from messaging.answering import Answerer
from messaging.batch_import import import_next
from messaging.batch_upkeep import BatchUpkeep
from messaging.health import require_migrated
from messaging.reply_handlers import require_handlers
from messaging.sending import Sender, worker_name
from messaging.service import Service, build_service
from utils.errors import ServiceError
from utils.logs import configure_logging
from utils.settings import Settings, load_settings

QUEUE_NAME = "sms"
WAKE_INTERVAL_SECONDS = 0.05
TICK_SECONDS = 0.5
# What is under way when the worker stops; an event that is cut off comes again.
FORWARD_STOP_SECONDS = 15.0
HEALTH_CHECK_SECONDS = 5.0
# Beside the sending lanes, so that a batch of a million never keeps the minute's work waiting.
EXTRA_THREADS = 2
QUEUE_ERRORS = (sqlite3.Error, psycopg.Error, redis.RedisError, OSError)

logger = logging.getLogger(__name__)


class JsonSerializer(Serializer):
    """Huey pickles by default: whoever can write to the queue could then run code in the worker."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps(data._replace(eta=None, expires_resolved=None)).encode()

    def _deserialize(self, data: bytes) -> Message:
        return Message(*json.loads(data))


def create_queue(settings: Settings) -> Huey:
    """Connects and makes its tables. `QUEUE_URL` decides: SQLite, PostgreSQL or Redis, the same tasks."""
    options = {"name": QUEUE_NAME, "results": False, "serializer": JsonSerializer()}
    url = settings.queue_url
    if url.startswith("sqlite:///"):
        return SqliteHuey(filename=url.removeprefix("sqlite:///"), fsync=False, **options)
    if url.startswith("postgresql://"):
        return PostgresHuey(dsn=url, **options)
    return RedisHuey(url=url, **options)


def declare_send_due(queue: Huey, send: Callable[[], None]) -> Callable[[], object]:
    """The one task that web and worker must name alike, from whatever module they were started."""
    declared: Callable[[], object] = queue.task(name="send_due", __module__=QUEUE_NAME)(send)
    return declared


class Waker:
    """Tells a worker that rows are due, at most every 50 ms, and never later than that after the last commit."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._send_due: Callable[[], object] | None = None
        self._woke_at = 0.0
        self._timer: threading.Timer | None = None

    def __call__(self) -> None:
        with self._lock:
            wait = self._woke_at + WAKE_INTERVAL_SECONDS - time.monotonic()
            if wait > 0:
                self._wake_after(wait)
                return
            self._woke_at = time.monotonic()
        self._wake()

    def _wake_after(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = threading.Timer(seconds, self._late)
            self._timer.daemon = True
            self._timer.start()

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            self._woke_at = time.monotonic()
        self._wake()

    def _wake(self) -> None:
        try:
            if self._send_due is None:
                self._send_due = declare_send_due(create_queue(self._settings), _nothing)
            self._send_due()
        except QUEUE_ERRORS:
            # The rows are committed; the worker's own look finds them.
            logger.warning("no wake-up: the queue cannot be reached", exc_info=True)


def _nothing() -> None:
    return None


class Worker:
    """The sending lanes, the minute's work and the ticker, in one process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lanes = threading.BoundedSemaphore(service.settings.worker_concurrency)
        queue = create_queue(service.settings)
        service.database.wake = Waker(service.settings)
        self._send_due = declare_send_due(queue, self.send_due)
        for name, work in (("sweep", self.sweep), ("probe", self.probe)):
            queue.periodic_task(crontab(minute="*"), name=name, __module__=QUEUE_NAME)(work)
        self._consumer = Consumer(
            queue,
            workers=service.settings.worker_concurrency + EXTRA_THREADS,
            initial_delay=0.02,
            # The default backs off to ten seconds.
            max_delay=0.2,
        )
        self._stopping: threading.Event = self._consumer.stop_flag
        self._sender = Sender(service.settings, service.database, service.provider, self._stopping)
        self._answerer = Answerer(service.settings, service.database, self._stopping)

    def send_due(self) -> None:
        """One lane works until nothing is due. With all lanes busy, one of them will come to it."""
        self._answerer.nudge()
        if not self._lanes.acquire(blocking=False):
            return
        try:
            self._sender.run_until_idle()
        finally:
            self._lanes.release()

    def sweep(self) -> None:
        sweeps.sweep(self._service.database, self._service.settings)

    def probe(self) -> None:
        probes.probe(self._service.database, self._service.provider)

    def tick(self) -> None:
        """Finds what no wake-up told of: a backoff that ended, `send_at`, a lost task."""
        next_beat = 0.0
        upkeep = BatchUpkeep(self._service.database)
        while not self._stopping.wait(TICK_SECONDS):
            try:
                if time.monotonic() >= next_beat:
                    heartbeats.beat(self._service.database, worker_name())
                    next_beat = time.monotonic() + heartbeats.INTERVAL.total_seconds()
                upkeep.look()
                if claims.has_due(self._service.database):
                    self._service.database.wake()
            except SQLAlchemyError:
                logger.warning("the database cannot be reached", exc_info=True)

    def import_files(self) -> None:
        """Makes uploaded files into messages, one at a time, in a thread of its own beside the sending lanes."""
        service = self._service
        while not self._stopping.wait(TICK_SECONDS):
            try:
                while import_next(service.database, service.settings, self._stopping.is_set):
                    pass
            except SQLAlchemyError:
                logger.warning("the database cannot be reached", exc_info=True)

    def forward(self) -> None:
        """A lane of its own: however dead the receiver, it delays nothing else."""
        forwarder = forward_delivery.build_forwarder(
            self._service.settings, self._service.database, self._stopping
        )
        while forwarder is not None and not self._stopping.wait(TICK_SECONDS):
            try:
                forwarder.run_until_idle()
            except SQLAlchemyError:
                logger.warning("events cannot be forwarded: no database", exc_info=True)

    def run(self) -> None:
        """Until SIGTERM or SIGINT: then each lane finishes its POST, records it and lets go of the rest.

        Huey's own handlers interrupt tasks at SIGTERM, or at a second signal; ours only ever ask.
        """
        self._consumer.start()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, self._stop)
        threading.Thread(target=self.tick, name="ticker", daemon=True).start()
        # Killed at any point it loses nothing, so nobody waits for it.
        threading.Thread(target=self.import_files, name="importer", daemon=True).start()
        answering = threading.Thread(target=self._answerer.run, name="answerer", daemon=True)
        answering.start()
        forwarding = threading.Thread(target=self.forward, name="forwarder", daemon=True)
        forwarding.start()
        while not self._stopping.wait(HEALTH_CHECK_SECONDS):
            self._consumer.check_worker_health()
        for _, thread in self._consumer.worker_threads:
            thread.join()
        answering.join()
        forwarding.join(FORWARD_STOP_SECONDS)

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping.set()


def main() -> int:
    try:
        settings = load_settings()
        settings.require_provider()
        configure_logging(settings.log_level, settings.secrets)
        require_handlers(settings)
        service = build_service(settings)
        require_migrated(service.database)
        identity.claim_identity(service.database, settings)
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    Worker(service).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
