"""What a test lets other processes do to its database. Functions of a module, for a spawned process imports them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from multiprocessing.process import BaseProcess
from typing import Any

from messaging.access import send_throttle
from messaging.messages import accept, idempotency
from messaging.sending.claim import ClaimLimits
from messaging.sending.rate_limit import Rates, lock, take
from messaging.sending.sender import MessageSender
from messaging.sending.triggers import TriggerSender
from messaging.storage import migrations, revisions
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.task_queue import Waker
from tests.support.databases import opened
from tests.support.delivery import LEASE, claim_as, queue
from utils.errors import ServiceError
from utils.settings import Settings
from utils.sms_utils import ProviderClient

SPAWN = multiprocessing.get_context("spawn")
TIMEOUT_SECONDS = 60.0


def in_processes(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """`work(barrier, *arguments)` in a process for each, all starting at the barrier; the results in order."""
    with SPAWN.Manager() as manager:
        barrier = manager.Barrier(len(arguments))
        with SPAWN.Pool(len(arguments)) as pool:
            given = [(barrier, *each) for each in arguments]
            return pool.starmap_async(work, given, chunksize=1).get(TIMEOUT_SECONDS)


@contextmanager
def process(work: Callable[..., None], *arguments: Any) -> Iterator[BaseProcess]:
    """One that is killed at the end if the test has not done so."""
    started = SPAWN.Process(target=work, args=arguments, daemon=True)
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join()
        started.close()


def open_database(settings: Settings) -> Database:
    return Database(settings.sqlalchemy_url)


def migrate(barrier: Any, url: str) -> bool:
    """Whether the database was up to date afterwards."""
    with opened(url) as database:
        barrier.wait()
        migrations.migrate(database)
        with database.read() as connection:
            return revisions.is_current(connection)


def claim_all(barrier: Any, settings: Settings, worker: str, limits: ClaimLimits) -> list[int]:
    """The ids of every message that this process could claim."""
    database = open_database(settings)
    barrier.wait()
    claimed: list[int] = []
    while found := claim_as(database, worker, limits):
        claimed += [message_id for one in found for message_id in one.recipients.values()]
    database.close()
    return claimed


def send_all(barrier: Any, settings: Settings) -> int:
    database = open_database(settings)
    client = ProviderClient.from_settings(settings)
    barrier.wait()
    posted = MessageSender(settings, database, client).run_until_idle()
    client.close()
    database.close()
    return posted


def accept_send(barrier: Any, settings: Settings, request: accept.SendRequest, key: str) -> dict[str, Any]:
    database = open_database(settings)
    barrier.wait()
    answer = accept.accept(settings, database, request, key)
    database.close()
    return {"is_replay": answer.is_replay, "body": answer.body}


def trigger(barrier: Any, settings: Settings, text: str, recipients: list[str], key: str | None) -> str:
    """What a trigger came to: `accepted`, or the code of its error."""
    database = open_database(settings)
    client = ProviderClient.from_settings(settings)
    barrier.wait()
    try:
        TriggerSender(settings, database, client).send_now(text, recipients, None, key)
    except ServiceError as error:
        return error.code
    else:
        return "accepted"
    finally:
        client.close()
        database.close()


def trigger_alone(settings: Settings, text: str, recipients: list[str]) -> None:
    database = open_database(settings)
    client = ProviderClient.from_settings(settings)
    TriggerSender(settings, database, client).send_now(text, recipients, None)


def send_alone(settings: Settings) -> None:
    MessageSender(settings, open_database(settings), ProviderClient.from_settings(settings)).run_until_idle()


def queue_and_wake(barrier: Any, settings: Settings, recipients: list[str]) -> float:
    """The moment of the commit, in seconds since 1970; the worker is woken as a web process does it."""
    database = open_database(settings)
    database.wake = waker = Waker(settings)
    barrier.wait()
    queue(database, *recipients)
    committed_at = time.time()
    waker.finish()
    database.close()
    return committed_at


def claim_and_hold(settings: Settings, claimed: Any, forever: Any) -> None:
    """Claims one POST, says so, and never posts it."""
    database = open_database(settings)
    claim_as(database, "doomed", ClaimLimits(500, LEASE, 1))
    claimed.set()
    forever.wait()


def begin_key(barrier: Any, settings: Settings, key: str, mark: bytes) -> bool:
    """Whether this process was the first with the key."""
    database = open_database(settings)
    barrier.wait()
    with database.write() as connection:
        earlier = idempotency.begin(connection, "test", key, mark, wall_clock(connection))
        if earlier is None:
            idempotency.finish(connection, "test", key, {"first": True})
    database.close()
    return earlier is None


def take_tokens(barrier: Any, settings: Settings, rates: Rates, count: int, seconds: float) -> list[float]:
    """The moments (seconds since 1970) at which this process got tokens for `count` messages."""
    database = open_database(settings)
    barrier.wait()
    moments: list[float] = []
    with database.read() as connection:
        ends_at = wall_clock(connection).timestamp() + seconds
    while True:
        with database.write() as connection:
            now = wall_clock(connection)
            if now.timestamp() > ends_at:
                break
            if take(connection, lock(connection), rates, [(count, False)], now) == [0]:
                moments.append(now.timestamp())
    database.close()
    return moments


def count_sends(barrier: Any, settings: Settings, who: str, per_minute: int, moment: datetime) -> int:
    """How many sends this process could ask for at `moment`."""
    send_throttle.steady = lambda *_: moment
    database = open_database(settings)
    throttle = send_throttle.SendThrottle(database, per_minute, lambda: 0.0)
    barrier.wait()
    passed = 0
    try:
        while True:
            throttle.count(who)
            passed += 1
    except send_throttle.RateLimited:
        return passed
    finally:
        database.close()
