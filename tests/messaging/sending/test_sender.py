from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from messaging.callbacks.receive import CallbackReceiver
from messaging.callbacks.received import apply_received
from messaging.operations import sweep
from messaging.sending import due
from messaging.sending import sender as sending
from messaging.sending.sender import URGENT_LOOK_SECONDS, MessageSender
from messaging.storage import retrying, tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.callback_rows import report
from tests.support.delivery import (
    LEASE,
    Clock,
    count,
    every,
    live_settings,
    message_to,
    opt_out,
    phone,
    phones,
    post_to,
    queue,
    queue_batch,
    statuses_of,
    sweep_leases,
)
from tests.support.delivery_processes import in_processes, process, send_all, send_alone
from tests.support.fake_provider import FakeProvider
from tests.support.simulator_process import SimulatorProcess
from tests.support.stack import eventually, free_port
from utils.errors import OutcomeUnknown
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

TIMEOUT_SECONDS = 15.0


@pytest.fixture
def sender(at_settings: Settings, database: Database, client: ProviderClient) -> MessageSender:
    """The only lane: it need not leave anything to others."""
    return MessageSender(alone(at_settings), database, client)


def alone(settings: Settings) -> Settings:
    return settings.model_copy(update={"worker_concurrency": 1})


def in_thread(work: object) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_what_is_queued_is_sent_once(
    database: Database, fake_at: FakeProvider, sender: MessageSender
) -> None:
    queue(database, *phones(3), text="Hé 🎉", sender_id="ACME")
    assert sender.run_until_idle() == 3
    (form,) = fake_at.posts
    assert (form["to"], form["message"], form["from"]) == (",".join(phones(3)), "Hé 🎉", "ACME")
    assert (form["username"], form["enqueue"]) == ("sandbox", "1")
    assert statuses_of(database) == ["accepted"] * 3
    assert sender.run_until_idle() == 0
    assert len(fake_at.posts) == 1


def test_an_answer_to_an_on_demand_text_carries_its_link_id(
    database: Database, fake_at: FakeProvider, sender: MessageSender
) -> None:
    queue(database, phone(1), link_id="L1")
    sender.run_until_idle()
    assert fake_at.posts[0]["linkId"] == "L1"


def test_no_database_session_is_held_during_a_post(
    database: Database, fake_at: FakeProvider, sender: MessageSender
) -> None:
    fake_at.hold.clear()
    queue(database, phone(1))
    thread = in_thread(sender.run_until_idle)
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    # And another may write meanwhile.
    queue(database, phone(2))
    fake_at.hold.set()
    thread.join(TIMEOUT_SECONDS)
    assert statuses_of(database) == ["accepted"] * 2


def test_the_evidence_is_written_before_the_bytes_leave(
    database: Database, fake_at: FakeProvider, sender: MessageSender
) -> None:
    fake_at.hold.clear()
    queue(database, phone(1))
    thread = in_thread(sender.run_until_idle)
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    (row,) = every(database, tables.attempts)
    assert (row.state, statuses_of(database)) == ("posting", ["sending"])
    assert row.posting_at is not None
    fake_at.hold.set()
    thread.join(TIMEOUT_SECONDS)


def test_an_answer_is_recorded_before_the_next_text_leaves(
    database: Database, fake_at: FakeProvider, sender: MessageSender
) -> None:
    for number in range(3):
        queue(database, phone(number), text=f"Dear {number}")
    seen: list[tuple[list[str], list[str]]] = []

    def look(form: dict[str, str]) -> tuple[int, str, str]:
        seen.append(([row.state for row in every(database, tables.attempts)], statuses_of(database)))
        return answer(form)

    answer, fake_at.answer = fake_at.answer, look  # type: ignore[method-assign]
    assert sender.run_until_idle() == 3
    assert seen == [
        (["posting", "claimed", "claimed"], ["sending", "sending", "sending"]),
        (["recorded", "posting", "claimed"], ["accepted", "sending", "sending"]),
        (["recorded", "recorded", "posting"], ["accepted", "accepted", "sending"]),
    ]


def test_who_opts_out_while_the_text_before_is_under_way_gets_none(
    database: Database, fake_at: FakeProvider, sender: MessageSender
) -> None:
    for number in range(3):
        queue(database, phone(number), text=f"Dear {number}")
    fake_at.hold.clear()
    thread = in_thread(sender.run_until_idle)
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    opt_out(database, phone(1))
    fake_at.hold.set()
    thread.join(TIMEOUT_SECONDS)
    assert [form["to"] for form in fake_at.posts] == [phone(0), phone(2)]
    assert statuses_of(database) == ["accepted", "blocked", "accepted"]


def test_a_look_for_urgent_texts_that_fails_does_not_cost_the_answer_that_is_held(
    database: Database, fake_at: FakeProvider, sender: MessageSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        queue_batch(database, [phone(number)], text=f"Dear {number}")
    looks: list[None] = []

    def look(_database: Database) -> bool:
        looks.append(None)
        raise OperationalError("SELECT", {}, Exception("the server is starting up"))

    monkeypatch.setattr(due, "has_urgent", look)
    monkeypatch.setattr(sending, "URGENT_LOOK_SECONDS", 0.0)
    sender.run_until_idle()
    assert looks
    assert statuses_of(database) == ["accepted"] * 3
    assert len(fake_at.posts) == 3


def test_every_write_waits_for_a_database_that_restarts(
    database: Database, fake_at: FakeProvider, sender: MessageSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "RETRY_SECONDS", 0.01)
    submit, tries = database.group_commit.submit, Counter[str]()

    def restarting(work: Any, item: Any, weight: int = 1) -> object:
        tries[work.__name__] += 1
        if tries[work.__name__] < 3:
            raise OperationalError("UPDATE", {}, Exception("the server is starting up"))
        return submit(work, item, weight)

    monkeypatch.setattr(database.group_commit, "submit", restarting)
    for number in range(2):
        queue(database, phone(number), text=f"Dear {number}")
    assert sender.run_until_idle() == 2
    assert tries == {"_begin_postings": 4, "_record_answers": 4}
    assert [form["message"] for form in fake_at.posts] == ["Dear 0", "Dear 1"]
    assert statuses_of(database) == ["accepted"] * 2


def test_a_lane_that_finds_more_than_it_can_take_wakes_the_next_one(
    database: Database, database_url: str, fake_at: FakeProvider, client: ProviderClient
) -> None:
    wakes: list[int] = []
    queue_batch(database, phones(6))
    database.wake = lambda: wakes.append(len(fake_at.posts))
    MessageSender(
        live_settings(database_url, fake_at.url, at_max_recipients=2), database, client
    ).run_until_idle()
    # Before its first POST, and once.
    assert (wakes, len(fake_at.posts)) == ([0], 3)


def test_a_lane_that_takes_all_there_is_wakes_nobody(
    database: Database, fake_at: FakeProvider, sender: MessageSender
) -> None:
    wakes: list[None] = []
    queue(database, *phones(3))
    database.wake = lambda: wakes.append(None)
    assert sender.run_until_idle() == 3
    assert wakes == []


def test_a_single_text_does_not_wait_for_the_bulk_that_a_worker_already_holds(
    database: Database, database_url: str, fake_at: FakeProvider, client: ProviderClient
) -> None:
    settings = live_settings(database_url, fake_at.url, at_max_recipients=500)
    for number in range(10):
        queue_batch(database, [phone(number)], text=f"bulk {number}")
    fake_at.hold.clear()
    thread = in_thread(MessageSender(settings, database, client).run_until_idle)
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    queue(database, phone(90), text="single")
    queue(database, phone(91), text="reply", priority=0)
    time.sleep(2 * URGENT_LOOK_SECONDS)
    fake_at.hold.set()
    thread.join(TIMEOUT_SECONDS)
    assert [form["message"] for form in fake_at.posts[1:3]] == ["reply", "single"]
    assert len(fake_at.posts) == 12


def test_a_single_text_does_not_wait_while_bulk_waits_for_the_rate_limit(
    database: Database, database_url: str, fake_at: FakeProvider, client: ProviderClient
) -> None:
    settings = live_settings(database_url, fake_at.url, at_max_messages_per_second=2, at_max_recipients=4)
    queue_batch(database, phones(8))
    stopping = threading.Event()
    thread = in_thread(MessageSender(settings, database, client, stopping).run_until_idle)
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    queued_at = time.monotonic()
    queue(database, phone(90), text="single", priority=0)
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    assert fake_at.posts[1]["message"] == "single"
    assert time.monotonic() - queued_at < 1.8
    stopping.set()
    thread.join(TIMEOUT_SECONDS)


def test_a_worker_that_is_told_to_stop_finishes_its_post_and_lets_go_of_the_rest(
    database: Database, at_settings: Settings, fake_at: FakeProvider, client: ProviderClient
) -> None:
    for number in range(5):
        queue(database, phone(number), text=f"Dear {number}")
    stopping = threading.Event()
    fake_at.hold.clear()
    thread = in_thread(MessageSender(alone(at_settings), database, client, stopping).run_until_idle)
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    assert Counter(statuses_of(database)) == {"sending": 4, "queued": 1}
    stopping.set()
    fake_at.hold.set()
    thread.join(TIMEOUT_SECONDS)
    assert Counter(statuses_of(database)) == {"accepted": 1, "queued": 4}
    assert Counter(row.state for row in every(database, tables.attempts)) == {"recorded": 1, "released": 3}
    assert len(fake_at.posts) == 1


def test_a_worker_that_is_told_to_stop_claims_nothing_more(
    database: Database, at_settings: Settings, client: ProviderClient
) -> None:
    queue(database, phone(1))
    stopping = threading.Event()
    stopping.set()
    assert MessageSender(at_settings, database, client, stopping).run_until_idle() == 0
    assert statuses_of(database) == ["queued"]
    assert count(database, tables.attempts) == 0


def test_a_bad_key_burns_no_recipient_and_stops_after_one_post(
    database: Database, database_url: str, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    queue(database, *phones(10))
    simulator.fault(bad_key=True)
    settings = live_settings(database_url, simulator.url, at_max_recipients=2)
    MessageSender(settings, database, simulator_client).run_until_idle()
    assert len(simulator.posts()) == 1
    assert statuses_of(database) == ["queued"] * 10
    assert {row.tries for row in every(database, tables.messages)} == {0}


def test_a_429_holds_back_every_post_that_was_claimed_with_it(
    database: Database, database_url: str, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    for number in range(8):
        queue(database, phone(number), text=f"Dear {number}")
    simulator.fault(status_429={"retry_after": 60})
    settings = live_settings(database_url, simulator.url)
    MessageSender(settings, database, simulator_client).run_until_idle()
    assert [post["result"] for post in simulator.posts()] == ["status_429"]
    assert statuses_of(database) == ["queued"] * 8


def test_an_outage_costs_a_handful_and_keeps_the_queue(
    database: Database, database_url: str, simulator: SimulatorProcess, clock: Clock
) -> None:
    """A compressed five minutes: the answers are lost, and each run of the worker is ten seconds later."""
    queue_batch(database, phones(40))
    simulator.fault(reset_after_accept=True)
    settings = live_settings(database_url, simulator.url, at_max_recipients=5)
    client = ProviderClient.from_settings(settings)
    for _ in range(30):
        MessageSender(settings, database, client).run_until_idle()
        clock.step(seconds=10)
    lost = Counter(statuses_of(database))
    # The first POST was whole; after it one message a step of 5, 10, 20 … 160 seconds.
    assert 5 <= lost["unknown"] <= 5 + 6
    assert lost["queued"] == 40 - lost["unknown"]
    simulator.fault(reset_after_accept=False)
    clock.step(minutes=5)
    MessageSender(settings, database, client).run_until_idle()
    client.close()
    after = Counter(statuses_of(database))
    assert after == {"unknown": lost["unknown"], "accepted": 40 - lost["unknown"]}
    received = Counter(item["to"] for item in simulator.ledger())
    assert set(received.values()) == {1}
    assert len(received) == 40


def test_a_provider_that_is_away_costs_no_message_at_all(
    database: Database, database_url: str, simulator: SimulatorProcess, clock: Clock
) -> None:
    queue_batch(database, phones(20))
    away = live_settings(database_url, f"http://127.0.0.1:{free_port()}", at_max_recipients=5)
    client = ProviderClient.from_settings(away)
    for _ in range(5):
        MessageSender(away, database, client).run_until_idle()
        clock.step(seconds=30)
    client.close()
    assert set(statuses_of(database)) == {"queued"}
    clock.step(hours=1)
    back = live_settings(database_url, simulator.url, at_max_recipients=5)
    client = ProviderClient.from_settings(back)
    MessageSender(back, database, client).run_until_idle()
    client.close()
    assert set(statuses_of(database)) == {"accepted"}
    assert Counter(item["to"] for item in simulator.ledger()) == dict.fromkeys(phones(20), 1)


def test_two_workers_send_everything_once(
    database: Database, database_url: str, simulator: SimulatorProcess
) -> None:
    queue_batch(database, phones(100))
    queue(database, *phones(10, first=200))
    settings = live_settings(database_url, simulator.url, at_max_recipients=3)
    posted = in_processes(send_all, [(settings,)] * 2)
    assert sum(posted) == 110
    assert set(statuses_of(database)) == {"accepted"}
    assert set(Counter(item["to"] for item in simulator.ledger()).values()) == {1}
    assert len(simulator.ledger()) == 110


def test_a_worker_killed_in_mid_post_leaves_the_evidence_and_only_its_own_texts_unknown(
    database: Database, database_url: str, simulator: SimulatorProcess, clock: Clock
) -> None:
    for number in range(4):
        queue(database, phone(number), text=f"Dear {number}")
    simulator.fault(hang_after_accept=60)
    settings = live_settings(database_url, simulator.url, worker_concurrency=1)
    with process(send_alone, settings) as worker:
        eventually(lambda: len(simulator.ledger()) == 1, "the first text arrives")
        worker.kill()
        worker.join()
    assert sorted(row.state for row in every(database, tables.attempts)) == ["claimed"] * 3 + ["posting"]
    assert set(statuses_of(database)) == {"sending"}
    assert sweep.sweep_expired_leases(database) == (0, 0)
    clock.step(seconds=settings.at_timeout_seconds + 61)
    assert sweep.sweep_expired_leases(database) == (3, 1)
    assert message_to(database, simulator.ledger()[0]["to"]).status == "unknown"
    simulator.fault(hang_after_accept=False)
    clock.step(minutes=5)
    client = ProviderClient.from_settings(settings)
    MessageSender(settings, database, client).run_until_idle()
    client.close()
    assert Counter(statuses_of(database)) == {"unknown": 1, "accepted": 3}
    assert set(Counter(item["to"] for item in simulator.ledger()).values()) == {1}


def test_a_text_with_send_at_leaves_when_its_time_has_come(
    database: Database, fake_at: FakeProvider, sender: MessageSender, clock: Clock
) -> None:
    queue(database, phone(1), due_at=utc_now() + timedelta(minutes=5))
    assert sender.run_until_idle() == 0
    clock.step(minutes=6)
    assert sender.run_until_idle() == 1


def test_a_failed_post_is_told_in_the_log_without_a_number_or_a_text(
    database: Database,
    fake_at: FakeProvider,
    sender: MessageSender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_at.script = [(500, "text/plain", "oops")]
    queue(database, phone(1), text="a secret")
    sender.run_until_idle()
    told = [(record.getMessage(), vars(record)) for record in caplog.records]
    assert ("post failed", "http_500") in [(said, values.get("reason")) for said, values in told]
    assert all(phone(1) not in str(values) and "a secret" not in str(values) for _, values in told)


def test_a_text_whose_report_has_come_is_not_sent_again(
    database: Database, at_settings: Settings, client: ProviderClient, clock: Clock
) -> None:
    """The report is journaled and not applied yet when the late POST turns out to be lost."""
    posting = post_to(database, phone(1), on_unknown="resend")
    clock.step(seconds=LEASE.total_seconds() + 1)
    assert sweep_leases(database) == (0, 1)
    inbox = CallbackReceiver(database, at_settings)
    inbox.receive("report", report("ATXid_1", phone=phone(1)))
    inbox.stop()
    apply = partial(apply_received, database, at_settings)
    sender = MessageSender(at_settings, database, client, apply_reports=apply)

    sender._record(posting, OutcomeUnknown(reason="timeout"))

    assert statuses_of(database) == ["delivered"]
