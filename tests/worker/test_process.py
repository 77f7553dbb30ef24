from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from messaging.callbacks.receive import CallbackReceiver
from messaging.consent import consents
from messaging.operations import account_check, health
from messaging.operations import sweep as sweeps
from messaging.sending.sender import MessageSender
from messaging.service import build_service
from messaging.storage import migrations, tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from messaging.storage.task_queue import make_queue_tables
from tests.support.callback_rows import add_accepted, report
from tests.support.databases import KINDS, empty_database, opened
from tests.support.delivery import (
    begin,
    change,
    claim,
    count,
    every,
    live_settings,
    message,
    message_to,
    phone,
    phones,
    queue,
    queue_batch,
    statuses_of,
)
from tests.support.delivery_processes import in_processes, queue_and_wake
from tests.support.fake_provider import FakeProvider
from tests.support.silent_server import SilentServer
from tests.support.simulator_process import SimulatorProcess
from tests.support.stack import ROOT, eventually, free_port
from tests.support.stopping import stop_outside_a_write
from tests.support.worker_process import WorkerProcess, worker_environment
from utils.settings import Settings
from utils.sms_utils import ProviderClient
from worker import process

pytest_plugins = ["tests.support.delivery_fixtures"]
pytestmark = pytest.mark.processes

REDIS_URL = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/9")
StartWorker = Callable[..., WorkerProcess]


@pytest.fixture(params=KINDS)
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        with opened(url) as database:
            migrations.migrate(database)
        make_queue_tables(Settings(database_url=url))
        yield url


@pytest.fixture
def books(migrated_url: str) -> Iterator[Database]:
    """The same database, seen from another process than the worker's."""
    with opened(migrated_url) as database:
        yield database


@pytest.fixture
def start_worker(migrated_url: str, books: Database, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[WorkerProcess] = []

    def start(provider_url: str, **settings: str) -> WorkerProcess:
        worker = WorkerProcess(tmp_path, worker_environment(migrated_url, provider_url, **settings))
        started.append(worker)
        eventually(lambda: health.is_worker_alive(books), "the worker beats")
        return worker

    yield start
    for worker in started:
        worker.kill()


def settle(database: Database, *wanted: str) -> None:
    def is_settled() -> bool:
        return sorted(statuses_of(database)) == sorted(wanted)

    eventually(is_settled, f"the messages are {wanted}")


def is_posting(database: Database) -> bool:
    return count(database, tables.attempts, tables.attempts.c.state == "posting") > 0


def expire_leases(database: Database) -> None:
    for row in every(database, tables.attempts):
        change(database, tables.attempts, row.id, lease_until=row.claimed_at - timedelta(minutes=1))


def seconds_until(look: Callable[[], object]) -> float:
    began = time.monotonic()
    eventually(look, "it happens")
    return time.monotonic() - began


def test_a_text_leaves_soon_after_the_commit_of_another_process_that_wakes_the_worker(
    books: Database, migrated_url: str, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    start_worker(simulator.url)
    settings = live_settings(migrated_url, simulator.url)
    (committed_at,) = in_processes(queue_and_wake, [(settings, phones(1))])
    settle(books, "accepted")
    # About a second is promised, a few tenths are usual; the machine may be busy.
    assert simulator.posts()[0]["arrived"] - committed_at < 5


def test_a_text_leaves_soon_also_when_the_wake_up_is_lost(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    start_worker(simulator.url)
    queue(books, phone(1))
    assert seconds_until(simulator.ledger) < 5
    settle(books, "accepted")


def test_a_worker_that_starts_finds_what_was_queued_before(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    queue(books, *phones(3))
    queue_batch(books, phones(5, first=50))
    start_worker(simulator.url)
    settle(books, *["accepted"] * 8)
    assert len(simulator.ledger()) == 8


def test_a_text_that_could_not_be_sent_is_tried_again_without_any_wake_up(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    simulator.fault(status_429={"retry_after": 1, "count": 1})
    queue(books, phone(1))
    start_worker(simulator.url)
    settle(books, "accepted")
    assert [post["result"] for post in simulator.posts()] == ["status_429", "accepted"]


def test_a_worker_told_to_stop_in_mid_post_finishes_and_records_it(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    simulator.fault(latency_seconds=2)
    for number in range(4):
        queue(books, phone(number), text=f"Dear {number}")
    worker = start_worker(simulator.url, WORKER_CONCURRENCY="1")
    eventually(lambda: is_posting(books), "the first text is on its way")
    # Ctrl-C in a terminal and the manager of processes both ask: one while the other is being heard.
    for _ in range(200):
        worker.signal(signal.SIGTERM)
        worker.signal(signal.SIGINT)
    assert worker.wait() == 0
    found = Counter(statuses_of(books))
    assert found["accepted"] >= 1
    assert found["accepted"] + found["queued"] == 4
    assert found["queued"] >= 1
    assert {row.state for row in every(books, tables.attempts)} == {"recorded", "released"}
    assert len(simulator.ledger()) == found["accepted"]


def test_a_worker_killed_in_mid_post_leaves_unknown_what_was_on_its_way_and_nothing_else(
    books: Database, migrated_url: str, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    simulator.fault(hang_after_accept=60)
    for number in range(3):
        queue(books, phone(number), text=f"Dear {number}")
    worker = start_worker(simulator.url)
    eventually(simulator.ledger, "a text arrives")
    worker.kill()
    assert set(statuses_of(books)) <= {"sending", "queued"}
    # One may have been marked as leaving, and its process killed before the bytes left.
    on_the_way = count(books, tables.attempts, tables.attempts.c.state == "posting")
    assert len(simulator.ledger()) <= on_the_way
    settings = live_settings(migrated_url, simulator.url)
    expire_leases(books)
    sweeps.sweep(books, settings)
    assert sorted(statuses_of(books)) == ["queued"] * (3 - on_the_way) + ["unknown"] * on_the_way
    simulator.fault(hang_after_accept=False)
    start_worker(simulator.url)
    settle(books, *["unknown"] * on_the_way, *["accepted"] * (3 - on_the_way))
    assert set(Counter(item["to"] for item in simulator.ledger()).values()) == {1}


def test_a_worker_that_was_stopped_past_its_lease_does_not_post(
    books: Database, migrated_url: str, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    """It holds a claim and waits for the rate limit when it is stopped; another worker has sent it meanwhile."""
    for number in range(2):
        queue_batch(books, [phone(number)], text=f"Dear {number}")
    worker = start_worker(simulator.url, AT_MAX_REQUESTS_PER_SECOND="0.1", WORKER_CONCURRENCY="1")
    settle(books, "accepted", "sending")
    stop_outside_a_write(lambda: worker.signal(signal.SIGSTOP), worker.process_id, books)
    expire_leases(books)
    settings = live_settings(migrated_url, simulator.url)
    assert sweeps.sweep_expired_leases(books) == (1, 0)
    client = ProviderClient.from_settings(settings)
    assert MessageSender(settings, books, client).run_until_idle() == 1
    client.close()
    worker.signal(signal.SIGCONT)
    assert worker.stop() == 0
    assert statuses_of(books) == ["accepted"] * 2
    assert Counter(item["to"] for item in simulator.ledger()) == {phone(0): 1, phone(1): 1}


def test_no_more_posts_are_under_way_than_there_are_lanes(
    books: Database, start_worker: StartWorker, fake_at: FakeProvider
) -> None:
    fake_at.hold.clear()
    for number in range(60):
        queue(books, phone(number), text=f"Dear {number}")
    worker = start_worker(fake_at.url, WORKER_CONCURRENCY="2")
    eventually(lambda: len(fake_at.posts) == 2, "both lanes post")
    time.sleep(1.5)
    assert len(fake_at.posts) == 2
    fake_at.hold.set()
    settle(books, *["accepted"] * 60)
    assert worker.stop() == 0


def test_two_workers_send_everything_once(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    for _ in range(2):
        start_worker(simulator.url, AT_MAX_RECIPIENTS="3")
    for number in range(5):
        queue_batch(books, phones(20, first=100 * number), text=f"batch {number}")
    settle(books, *["accepted"] * 100)
    assert set(Counter(item["to"] for item in simulator.ledger()).values()) == {1}
    assert count(books, tables.message_events) == 100


@pytest.mark.xdist_group("redis")
def test_redis_wakes_the_worker_too(
    books: Database, migrated_url: str, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    try:
        redis.Redis.from_url(REDIS_URL).ping()
    except redis.RedisError:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            raise
        pytest.skip("no Redis at TEST_REDIS_URL")
    worker = start_worker(simulator.url, QUEUE_URL=REDIS_URL)
    settings = live_settings(migrated_url, simulator.url, queue_url=REDIS_URL)
    in_processes(queue_and_wake, [(settings, phones(3))])
    settle(books, *["accepted"] * 3)
    assert worker.stop() == 0


def test_a_worker_outlives_the_loss_of_its_queue(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """The rows are the queue: what the engine lost costs half a second."""
    queue_file = tmp_path / "lost.db"
    start_worker(simulator.url, QUEUE_URL=f"sqlite:///{queue_file}")
    connection = sqlite3.connect(queue_file, timeout=30)
    with connection:
        connection.execute("DELETE FROM task")
    connection.close()
    queue(books, phone(1))
    settle(books, "accepted")


def run_worker(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_worker_refuses_the_records_of_another_account(
    books: Database, migrated_url: str, simulator: SimulatorProcess
) -> None:
    account_check.claim_identity(books, live_settings(migrated_url, simulator.url, at_username="acme"))
    queue(books, phone(1))
    refused = run_worker(worker_environment(migrated_url, simulator.url))
    assert refused.returncode == 1
    assert "acme" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert simulator.posts() == []


def test_a_worker_refuses_to_guess_a_provider(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sms.db'}"
    refused = run_worker(worker_environment(url, "", AT_USERNAME="", AT_API_KEY=""))
    assert refused.returncode == 1
    assert "AT_USERNAME" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_worker_whose_queue_cannot_be_reached_at_its_start_says_so_in_one_line(
    books: Database, migrated_url: str, simulator: SimulatorProcess
) -> None:
    queue_url = f"postgresql://postgres@127.0.0.1:{free_port()}/queue"
    refused = run_worker(worker_environment(migrated_url, simulator.url, QUEUE_URL=queue_url))
    assert refused.returncode == 1
    assert "QUEUE_URL" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_worker_on_a_database_without_tables_says_what_to_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sms.db'}"
    refused = run_worker(worker_environment(url, f"http://127.0.0.1:{free_port()}"))
    assert refused.returncode == 1
    assert "migrate" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_queue_that_hangs_keeps_no_text_from_being_sent_and_no_worker_from_stopping(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    with SilentServer() as silent:
        worker = start_worker(simulator.url, QUEUE_URL=silent.redis_url)
        queue(books, *phones(3))
        queue_batch(books, phones(5, first=50))
        settle(books, *["accepted"] * 8)
        assert silent.callers > 0
        assert worker.stop() == 0


def test_a_starting_worker_finds_what_a_dead_one_left_though_its_queue_loses_every_task(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    """The sweep asked for by the engine may be lost; the next one would come more than a minute later."""
    queue(books, phone(1))
    (held,) = claim(books)
    begin(books, held)
    expire_leases(books)
    with SilentServer() as silent:
        start_worker(simulator.url, QUEUE_URL=silent.redis_url)
        eventually(lambda: statuses_of(books) == ["unknown"], "the sweep finds it", 30)


def test_a_sweep_that_failed_is_tried_again_and_not_a_minute_later(
    books: Database, migrated_url: str, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "SWEEP_AGAIN_SECONDS", 0.1)
    failures = [OperationalError("SELECT 1", {}, Exception("too many clients already"))]
    sweep = sweeps.sweep

    def fail_once(*given: Any) -> object:
        if failures:
            raise failures.pop()
        return sweep(*given)

    monkeypatch.setattr(sweeps, "sweep", fail_once)
    service = build_service(live_settings(migrated_url, simulator.url))
    worker = process.Worker(service)
    queue(books, phone(1))
    claim(books, lease=timedelta(0))
    sweeping = threading.Thread(target=worker.sweep_unasked)
    sweeping.start()
    try:
        settle(books, "queued")
    finally:
        worker.stop()
        sweeping.join(30)
        service.provider.close()
        service.database.close()
    assert not failures


def test_the_minutes_work_is_done_also_when_the_queue_never_asks_for_it(
    books: Database, migrated_url: str, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "OWN_SWEEP_SECONDS", 0.0)
    service = build_service(live_settings(migrated_url, simulator.url))
    worker = process.Worker(service)
    queue(books, phone(1))
    claim(books, lease=timedelta(0))
    sweeping = threading.Thread(target=worker.sweep_unasked)
    sweeping.start()
    try:
        settle(books, "queued")
    finally:
        worker.stop()
        sweeping.join(30)
        service.provider.close()
        service.database.close()


def test_a_sweep_that_found_texts_in_doubt_looks_once_more_at_once(
    migrated_url: str, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that blocks its recipient is applied where it comes: parked just before its text became unknown.

    Neither side saw what the other had not committed yet, and the next sweep would come a minute later.
    """
    if migrated_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer: one side always sees the other")
    service = build_service(live_settings(migrated_url, simulator.url))
    queue(service.database, phone(1))
    begin(service.database, *claim(service.database))
    expire_leases(service.database)
    web = build_service(live_settings(migrated_url, simulator.url))
    body = report("ATXid_1", "Rejected", phone(1), failureReason="UserInBlackList")
    reporter = threading.Thread(target=web.callback_receiver.receive, args=("report", body))
    has_parked, may_commit = threading.Event(), threading.Event()

    def wait_before_the_commit(_connection: object) -> None:
        has_parked.set()
        may_commit.wait(30)

    event.listen(web.database.engine, "commit", wait_before_the_commit)
    sweep = sweeps.sweep

    def commit_after_the_first(*given: Any) -> sweeps.Swept:
        swept = sweep(*given)
        may_commit.set()
        reporter.join(30)
        return swept

    monkeypatch.setattr(sweeps, "sweep", commit_after_the_first)
    worker = process.Worker(service)
    sweeping = threading.Thread(target=worker.sweep_unasked)
    try:
        reporter.start()
        assert has_parked.wait(30)
        sweeping.start()
        eventually(lambda: statuses_of(service.database) == ["failed"], "the text has its report", 10)
    finally:
        worker.stop()
        sweeping.join(30)
        web.callback_receiver.stop()
        for one in (service, web):
            one.provider.close()
            one.database.close()


def test_a_report_counts_soon_after_it_was_stored(
    books: Database, migrated_url: str, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    message_id = add_accepted(books, "ATXid_1")
    start_worker(simulator.url)
    web = CallbackReceiver(books, live_settings(migrated_url, simulator.url))
    web.receive("report", report("ATXid_1"))
    web.stop()
    # A fifth of a second is promised; the machine may be busy.
    assert seconds_until(lambda: message(books, message_id).status == "delivered") < 2


def test_reports_that_were_stored_without_a_worker_count_when_one_starts(
    books: Database, migrated_url: str, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    ids = [add_accepted(books, f"ATXid_{number}") for number in range(20)]
    web = CallbackReceiver(books, live_settings(migrated_url, simulator.url))
    for number in range(20):
        web.receive("report", report(f"ATXid_{number}"))
    web.stop()
    assert {message(books, one).status for one in ids} == {"accepted"}
    start_worker(simulator.url)
    settle(books, *["delivered"] * 20)


def test_a_heartbeat_is_recent(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    worker = start_worker(simulator.url)
    (row,) = every(books, tables.heartbeats)
    assert abs(utc_now() - row.seen_at) < timedelta(seconds=30)
    assert worker.stop() == 0
    assert "Traceback" not in worker.log


def test_a_pause_is_probed_within_a_minute_wherever_in_the_minute_it_began(
    books: Database, start_worker: StartWorker, simulator: SimulatorProcess
) -> None:
    start_worker(simulator.url)
    simulator.fault(bad_key=True)
    queue(books, phone(1))
    eventually(lambda: count(books, tables.pauses) == 1, "the account is paused")
    simulator.fault(bad_key=False)
    paused_at = every(books, tables.pauses)[0].since
    with books.write() as connection:
        long_ago = paused_at - timedelta(seconds=46)
        connection.execute(tables.pauses.update().values(probed_at=long_ago))
    # 46 s and two looks: as a task of the minute it was passed over until 60 s had gone.
    settle(books, "accepted")


def test_a_thread_that_an_error_has_ended_gets_a_successor_and_the_log_says_so(
    migrated_url: str,
    simulator: SimulatorProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = [RuntimeError("a file like no other")]

    def import_next(*_given: object) -> bool:
        if errors:
            raise errors.pop()
        return False

    monkeypatch.setattr(process, "import_next", import_next)
    monkeypatch.setattr(threading, "excepthook", process._log_the_end)
    service = build_service(live_settings(migrated_url, simulator.url))
    worker = process.Worker(service)
    worker.keep_alive()
    first = dict(worker._threads)
    try:
        first["importer"].join(30)
        assert not first["importer"].is_alive()
        worker.keep_alive()
        assert worker._threads["importer"].is_alive()
        assert {name for name, thread in worker._threads.items() if thread is not first[name]} == {"importer"}
        assert "an error has ended a thread" in caplog.text
    finally:
        worker.stop()
        for thread in worker._threads.values():
            thread.join(30)
        service.provider.close()
        service.database.close()


def test_a_worker_texts_only_who_agreed(
    books: Database, fake_at: FakeProvider, start_worker: StartWorker
) -> None:
    consents.give(books, phone(1), None, consents.Terms("form"))
    queue(books, *phones(2))
    start_worker(fake_at.url, REQUIRE_CONSENT="true")
    settle(books, "accepted", "blocked")
    assert [post["to"] for post in fake_at.posts] == [phone(1)]
    assert message_to(books, phone(2)).reason == "no_consent"
