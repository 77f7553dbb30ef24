from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huey import Huey

from app import create_app
from messaging.service import Service
from messaging.storage import task_queue
from messaging.storage.migrations import migrate
from messaging.storage.task_queue import (
    QUEUE_NAME,
    NoQueueTables,
    Waker,
    create_queue,
    declare_send_due,
    make_queue_tables,
    require_queue_tables,
)
from routes.service import EXTENSION
from tests.support.databases import empty_database, opened
from tests.support.silent_server import SilentServer
from tests.support.stack import Stack, eventually, free_port
from tests.support.web import API_KEY, TOKEN, Caller
from utils.errors import StorageUnavailable
from utils.settings import Settings

TIMEOUT_SECONDS = 30.0


@pytest.fixture
def queue_settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path / 'sms.db'}")


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    with SilentServer() as server:
        yield server


def returns(work: Callable[[], Any]) -> Any:
    """What `work` returns; fails where it never does, and the thread is then left behind."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    assert found, "it never came back"
    return found[0]


def has_waiting(queue: Huey, more_than: int = 0) -> Callable[[], bool]:
    return lambda: queue.pending_count() > more_than


def test_a_burst_of_commits_is_a_handful_of_wake_ups_and_one_comes_after_the_last(
    queue_settings: Settings,
) -> None:
    waker, waiting = Waker(queue_settings), create_queue(queue_settings)
    for _ in range(200):
        waker()
    eventually(has_waiting(waiting), "there is a wake-up")
    assert waiting.pending_count() <= 10
    before = waiting.pending_count()
    waker()
    eventually(has_waiting(waiting, before), "the last commit has its wake-up")
    time.sleep(0.2)
    after = waiting.pending_count()
    time.sleep(0.2)
    assert waiting.pending_count() == after


def test_threads_that_commit_at_once_share_a_wake_up(queue_settings: Settings) -> None:
    waker, waiting = Waker(queue_settings), create_queue(queue_settings)
    threads = [threading.Thread(target=waker) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    eventually(has_waiting(waiting), "there is a wake-up")
    assert waiting.pending_count() <= 5


def test_a_command_that_ends_with_its_commit_has_its_wake_up_before_it_ends(queue_settings: Settings) -> None:
    waker = Waker(queue_settings)
    waker()
    waker.finish()
    assert create_queue(queue_settings).pending_count() == 1


def test_a_queue_that_cannot_be_reached_is_logged_and_fails_no_commit(
    queue_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    unreachable = queue_settings.model_copy(update={"queue_url": f"redis://127.0.0.1:{free_port()}/0"})
    Waker(unreachable)()
    eventually(lambda: "no wake-up" in caplog.text, "it is logged")


def test_one_who_commits_does_not_wait_for_a_queue_that_accepts_and_never_answers(
    queue_settings: Settings, silent: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The queue itself would wait for ever: so it is not the time-out that lets the caller go.
    monkeypatch.setattr(task_queue, "QUEUE_TIMEOUT_SECONDS", None)
    waker = Waker(queue_settings.model_copy(update={"queue_url": silent.redis_url}))
    waker()
    eventually(lambda: silent.callers, "the queue is asked")
    returns(lambda: [waker() for _ in range(100)])
    returns(lambda: waker.finish() is None)
    assert silent.callers == 1


@pytest.mark.parametrize("kind", ["redis_url", "postgresql_url"])
def test_a_queue_that_never_answers_is_given_up_and_asked_again(
    queue_settings: Settings,
    silent: SilentServer,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # What PostgreSQL's client takes at least.
    monkeypatch.setattr(task_queue, "QUEUE_TIMEOUT_SECONDS", 2)
    waker = Waker(queue_settings.model_copy(update={"queue_url": getattr(silent, kind)}))
    waker()
    eventually(lambda: "no wake-up" in caplog.text, "it is given up")
    before = silent.callers
    waker()
    eventually(lambda: silent.callers > before, "it is asked again")


def test_sends_and_callbacks_are_answered_beside_a_queue_that_never_answers(
    settings: Settings, silent: SilentServer
) -> None:
    overrides = {"queue_url": silent.redis_url, "api_keys": (API_KEY,), "webhook_tokens": (TOKEN,)}
    app = create_app(settings.model_copy(update=overrides))
    caller, service = Caller(app), app.extensions[EXTENSION]
    assert isinstance(service, Service)
    inbound = {"id": "in-1", "from": "+254711000001", "to": "20880", "text": "Hello"}
    try:
        for _ in range(3):
            sent = returns(lambda: caller.post("/v1/messages", {"to": "+254711000001", "text": "Hello"}))
            assert sent.status_code == 202
        taken = returns(lambda: caller.callback("/sms/twoway", inbound))
        assert (taken.status_code, taken.text) == (200, "GOOD")
        assert silent.callers > 0
        # Three texts, and the answer to the one that came.
        assert len(caller.messages()) == 4
    finally:
        service.callback_receiver.stop()
        service.database.close()


def test_what_lies_in_the_queue_is_json_and_never_a_pickle(queue_settings: Settings) -> None:
    """Whoever can write to the queue must not be able to run code in the worker."""
    waiting = create_queue(queue_settings)
    declare_send_due(waiting, lambda: None)()
    connection = sqlite3.connect(queue_settings.queue_url.removeprefix("sqlite:///"))
    ((stored,),) = connection.execute("SELECT data FROM task").fetchall()
    connection.close()
    assert f"{QUEUE_NAME}.send_due" in json.loads(stored)
    assert waiting.dequeue() is not None


def test_a_task_that_web_and_worker_name_alike_is_run_by_the_worker(queue_settings: Settings) -> None:
    waker = Waker(queue_settings)
    waker()
    waker.finish()
    ran: list[str] = []
    workers = create_queue(queue_settings)
    declare_send_due(workers, lambda: ran.append("sent"))
    task = workers.dequeue()
    assert task is not None
    workers.execute(task)
    assert ran == ["sent"]


@pytest.mark.services
def test_processes_that_start_at_once_make_the_queues_tables_once(tmp_path: Path) -> None:
    """The engine's own `create table if not exists` failed in one of two (pg_type_typname_nsp_index)."""
    with empty_database("postgresql", tmp_path) as url:
        settings = Settings(database_url=url, queue_url=url)
        with pytest.raises(NoQueueTables):
            require_queue_tables(settings)
        together = threading.Barrier(6)

        def make() -> None:
            together.wait()
            make_queue_tables(settings)
            require_queue_tables(settings)

        with ThreadPoolExecutor(6) as pool:
            for one in [pool.submit(make) for _ in range(6)]:
                one.result()
        queue = create_queue(settings)
        declare_send_due(queue, lambda: None)()
        assert queue.pending_count() == 1
        queue.storage.close()


@pytest.mark.services
def test_a_worker_makes_no_table_and_says_what_does(tmp_path: Path) -> None:
    with empty_database("postgresql", tmp_path) as url:
        stack = Stack(tmp_path, url)
        with opened(url) as database:
            migrate(database)
        stack.start("worker")
        assert stack.processes["worker"].wait(TIMEOUT_SECONDS) == 1
        assert "The task queue's tables are missing: run `flask --app app sms migrate`" in stack.log("worker")
        stack.flask("sms", "migrate").check_returncode()
        require_queue_tables(Settings(database_url=url, queue_url=url))


def test_a_queue_url_that_cannot_be_used_tells_no_password() -> None:
    settings = Settings(queue_url="postgresql://someone:so-secret-a-word@127.0.0.1:1/queue?no_such=1")
    with pytest.raises(StorageUnavailable) as refused:
        make_queue_tables(settings)
    assert "so-secret-a-word" not in str(refused.value)
