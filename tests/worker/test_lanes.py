from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.exc import OperationalError

from utils.errors import AcceptanceUnknown, StorageUnavailable
from worker.lanes import Lanes

TIMEOUT_SECONDS = 10.0


@contextmanager
def working(send: Callable[[], object], count: int) -> Iterator[tuple[Lanes, list[threading.Thread]]]:
    stopping = threading.Event()
    lanes = Lanes(send, count, stopping)
    threads = [threading.Thread(target=lanes.work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield lanes, threads
    finally:
        stopping.set()
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)


def test_each_wake_up_brings_one_idle_thread_to_work() -> None:
    began, may_end = threading.Semaphore(0), threading.Event()

    def send() -> None:
        began.release()
        may_end.wait(TIMEOUT_SECONDS)

    with working(send, 3) as (lanes, _):
        for _ in range(3):
            lanes.wake_one()
            assert began.acquire(timeout=TIMEOUT_SECONDS)
        assert not began.acquire(blocking=False)
        may_end.set()


def test_a_wake_up_while_all_threads_work_is_not_lost() -> None:
    began, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def send() -> None:
        began.release()
        may_end.acquire(timeout=TIMEOUT_SECONDS)

    with working(send, 1) as (lanes, _):
        lanes.wake_one()
        assert began.acquire(timeout=TIMEOUT_SECONDS)
        assert not lanes.wake_one()
        may_end.release()
        assert began.acquire(timeout=TIMEOUT_SECONDS)
        may_end.release()


@pytest.mark.parametrize(
    "error",
    [OperationalError("SELECT 1", {}, Exception("gone")), StorageUnavailable(), AcceptanceUnknown()],
    ids=lambda error: type(error).__name__,
)
def test_a_database_that_is_away_ends_no_thread(error: Exception) -> None:
    """Nor does a claim of which the database does not tell whether it was committed."""
    sent = threading.Semaphore(0)
    errors = [error]

    def send() -> None:
        if errors:
            raise errors.pop()
        sent.release()

    with working(send, 1) as (lanes, threads):
        lanes.wake_one()
        while errors:
            threads[0].join(0.01)
        lanes.wake_one()
        assert sent.acquire(timeout=TIMEOUT_SECONDS)
        assert threads[0].is_alive()
