from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from messaging.messages import idempotency, pause_names
from messaging.operations import sweep
from messaging.sending import pauses, start_post, triggers
from messaging.sending.claim import ClaimLimits
from messaging.sending.rate_limit import Rates
from messaging.sending.sender import MessageSender
from messaging.sending.triggers import RecipientsRejected, TriggerSender
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import (
    LEASE,
    Clock,
    claim_as,
    count,
    every,
    history,
    in_write,
    live_settings,
    message_to,
    opt_out,
    phone,
    phones,
    queue_batch,
    statuses_of,
)
from tests.support.delivery_processes import in_processes, process, trigger, trigger_alone
from tests.support.fake_provider import FakeProvider
from tests.support.postgresql_proxy import AFTER, BEFORE, NEVER, PostgresqlProxy
from tests.support.simulator_process import SimulatorProcess
from tests.support.stack import eventually, free_port
from utils.errors import (
    Busy,
    CredentialsRefused,
    EmptyMessage,
    InvalidInput,
    NoRecipients,
    OptedOut,
    OutcomeUnknown,
    ProviderUnreachable,
    ServiceError,
)
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

TIMEOUT_SECONDS = 15.0


@pytest.fixture
def sender(at_settings: Settings, database: Database, client: ProviderClient) -> TriggerSender:
    return TriggerSender(at_settings, database, client)


@pytest.fixture
def simulated(
    simulator_settings: Settings, database: Database, simulator_client: ProviderClient
) -> TriggerSender:
    return TriggerSender(simulator_settings, database, simulator_client)


def states(database: Database) -> list[str]:
    return [row.state for row in every(database, tables.attempts)]


def test_a_trigger_sends_now_and_returns_ats_answer(
    database: Database, fake_at: FakeProvider, sender: TriggerSender
) -> None:
    result = sender.send_now("Hello", phones(2), "ACME")
    assert result.accepted == phones(2)
    assert result.blocked == []
    assert result.response["SMSMessageData"]["Message"] == "Sent to 2/2"
    (form,) = fake_at.posts
    assert (form["to"], form["message"], form["from"]) == (",".join(phones(2)), "Hello", "ACME")
    assert statuses_of(database) == ["accepted"] * 2
    assert {row.origin for row in every(database, tables.messages)} == {"trigger"}
    assert states(database) == ["recorded"]


def test_a_number_named_twice_gets_one_text(
    database: Database, fake_at: FakeProvider, sender: TriggerSender
) -> None:
    sender.send_now("Hello", [phone(1), phone(1)], None)
    assert fake_at.posts[0]["to"] == phone(1)
    assert count(database, tables.messages) == 1


def test_the_rows_are_there_before_the_bytes_leave(
    database: Database, fake_at: FakeProvider, sender: TriggerSender
) -> None:
    fake_at.hold.clear()
    thread = threading.Thread(target=sender.send_now, args=("Hello", phones(2), None), daemon=True)
    thread.start()
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    assert statuses_of(database) == ["sending"] * 2
    (row,) = every(database, tables.attempts)
    assert (row.state, row.is_trigger) == ("posting", True)
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    fake_at.hold.set()
    thread.join(TIMEOUT_SECONDS)


def test_a_process_killed_in_mid_post_leaves_its_texts_unknown_and_never_to_a_worker(
    database: Database, simulator_settings: Settings, simulator: SimulatorProcess, clock: Clock
) -> None:
    simulator.fault(hang_after_accept=60)
    with process(trigger_alone, simulator_settings, "Hello", phones(2)) as web:
        eventually(lambda: len(simulator.ledger()) == 2, "the texts arrive")
        web.kill()
        web.join()
    assert statuses_of(database) == ["sending"] * 2
    assert states(database) == ["posting"]
    clock.step(seconds=triggers.LEASE.total_seconds() + 1)
    assert sweep.sweep_expired_leases(database) == (0, 2)
    assert statuses_of(database) == ["unknown"] * 2
    simulator.fault(hang_after_accept=False)
    clock.step(hours=1)
    client = ProviderClient.from_settings(simulator_settings)
    assert MessageSender(simulator_settings, database, client).run_until_idle() == 0
    client.close()
    assert len(simulator.ledger()) == 2


def test_a_process_that_died_before_its_post_leaves_its_texts_cancelled(
    database: Database, at_settings: Settings, client: ProviderClient, clock: Clock
) -> None:
    sender = TriggerSender(at_settings, database, client)
    died = sender._accept("Hello", phones(2), None, None)
    assert died.claim is not None
    assert claim_as(database, "worker", ClaimLimits(500, LEASE)) == []
    clock.step(seconds=triggers.LEASE.total_seconds() + 1)
    sweep.sweep_expired_leases(database)
    rows = every(database, tables.messages)
    assert {(row.status, row.reason) for row in rows} == {("cancelled", "worker_died")}
    assert claim_as(database, "worker", ClaimLimits(500, LEASE)) == []


def test_a_trigger_that_was_swept_before_its_post_does_not_post(
    database: Database,
    fake_at: FakeProvider,
    sender: TriggerSender,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
) -> None:
    accept = TriggerSender._accept

    def slowly(*arguments: Any) -> Any:
        accepted = accept(*arguments)
        clock.step(seconds=triggers.LEASE.total_seconds() + 1)
        sweep.sweep_expired_leases(database)
        return accepted

    monkeypatch.setattr(TriggerSender, "_accept", slowly)
    with pytest.raises(Busy):
        sender.send_now("Hello", phones(1), None)
    assert fake_at.posts == []
    assert statuses_of(database) == ["cancelled"]


def test_nobody_who_opted_out_is_texted_and_the_refusal_is_on_record(
    database: Database, fake_at: FakeProvider, sender: TriggerSender
) -> None:
    opt_out(database, phone(1))
    with pytest.raises(OptedOut) as refusal:
        sender.send_now("Hello", [phone(1)], None)
    assert phone(1) in str(refusal.value)
    assert fake_at.posts == []
    row = message_to(database, phone(1))
    assert (row.status, row.reason) == ("blocked", "opted_out")
    assert history(database, row.id) == [("blocked", "worker")]


def test_of_several_only_those_who_may_be_texted_are(
    database: Database, fake_at: FakeProvider, sender: TriggerSender
) -> None:
    opt_out(database, phone(1))
    result = sender.send_now("Hello", phones(3), None)
    assert (result.accepted, result.blocked) == (phones(3)[1:], [phone(1)])
    assert fake_at.posts[0]["to"] == ",".join(phones(3)[1:])


def test_who_opts_out_between_the_two_writes_is_not_texted(
    database: Database, fake_at: FakeProvider, sender: TriggerSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = TriggerSender._accept

    def and_then(*arguments: Any) -> Any:
        accepted = accept(*arguments)
        opt_out(database, phone(1))
        return accepted

    monkeypatch.setattr(TriggerSender, "_accept", and_then)
    with pytest.raises(OptedOut):
        sender.send_now("Hello", [phone(1)], None)
    assert fake_at.posts == []
    assert statuses_of(database) == ["blocked"]


@pytest.mark.parametrize(
    ("text", "recipients", "error"),
    [
        ("  ", phones(1), EmptyMessage),
        ("Hello", [], NoRecipients),
        ("Hello", phones(501), InvalidInput),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is_written(
    database: Database, sender: TriggerSender, text: str, recipients: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        sender.send_now(text, recipients, None)
    assert count(database, tables.messages) == count(database, tables.attempts) == 0


def test_an_answer_that_is_lost_is_unknown_and_the_message_stays(
    database: Database, simulator: SimulatorProcess, simulated: TriggerSender
) -> None:
    simulator.fault(reset_after_accept=True)
    with pytest.raises(OutcomeUnknown):
        simulated.send_now("Hello", phones(1), None)
    assert statuses_of(database) == ["unknown"]
    assert len(simulator.ledger()) == 1


def test_a_hanging_answer_ends_at_the_deadline(
    database: Database,
    simulator: SimulatorProcess,
    simulated: TriggerSender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert triggers.DEADLINE_SECONDS == 20
    monkeypatch.setattr(triggers, "DEADLINE_SECONDS", 1.5)
    simulator.fault(hang_after_accept=30)
    with pytest.raises(OutcomeUnknown) as lost:
        simulated.send_now("Hello", phones(1), None)
    assert lost.value.reason == "timed_out"
    assert statuses_of(database) == ["unknown"]


def test_a_provider_that_is_away_has_sent_nothing_and_the_caller_may_retry(
    database: Database, database_url: str
) -> None:
    settings = live_settings(database_url, f"http://127.0.0.1:{free_port()}")
    client = ProviderClient.from_settings(settings)
    with pytest.raises(ProviderUnreachable):
        TriggerSender(settings, database, client).send_now("Hello", phones(1), None)
    client.close()
    row = message_to(database, phone(1))
    assert (row.status, row.reason) == ("failed", "connection_failed")


def test_a_text_that_at_refused_altogether_is_rejected_with_its_answer(
    database: Database, fake_at: FakeProvider, sender: TriggerSender
) -> None:
    fake_at.refused = {phone(1): (403, "InvalidPhoneNumber"), phone(2): (407, "CouldNotRoute")}
    with pytest.raises(RecipientsRejected) as refusal:
        sender.send_now("Hello", phones(2), None)
    assert len(refusal.value.response["SMSMessageData"]["Recipients"]) == 2
    assert statuses_of(database) == ["rejected"] * 2


def test_a_sender_that_at_does_not_know_is_rejected_and_paused(
    database: Database, simulator: SimulatorProcess, simulated: TriggerSender
) -> None:
    simulator.fault(invalid_sender=True)
    with pytest.raises(RecipientsRejected) as refusal:
        simulated.send_now("Hello", phones(1), "ACME")
    assert refusal.value.response["SMSMessageData"]["Message"] == "InvalidSenderId"
    assert statuses_of(database) == ["failed"]
    assert [row.name for row in every(database, tables.pauses)] == ["sender:ACME"]


def test_recipients_that_at_left_out_are_unknown_when_none_was_accepted(
    database: Database, simulator: SimulatorProcess, simulated: TriggerSender
) -> None:
    simulator.fault(drop_recipients={"numbers": [phone(1)[-6:]]})
    assert simulated.send_now("Hello", phones(2), None).accepted == [phone(2)]
    assert Counter(statuses_of(database)) == {"accepted": 1, "unknown": 1}


def test_a_trigger_tries_though_the_account_is_paused_and_its_success_lifts_the_pause(
    database: Database, sender: TriggerSender
) -> None:
    in_write(database, lambda connection, now: pauses.pause(connection, pause_names.ACCOUNT, "w", None, now))
    sender.send_now("Hello", phones(1), None)
    assert every(database, tables.pauses) == []


def test_a_bad_key_pauses_the_account_for_the_workers_too(
    database: Database, simulator: SimulatorProcess, simulated: TriggerSender
) -> None:
    queue_batch(database, phones(3, first=10))
    simulator.fault(bad_key=True)
    with pytest.raises(CredentialsRefused):
        simulated.send_now("Hello", phones(1), None)
    assert claim_as(database, "worker", ClaimLimits(500, LEASE)) == []


def test_a_trigger_that_gets_no_turn_in_time_is_busy_and_its_texts_are_cancelled(
    database: Database,
    database_url: str,
    fake_at: FakeProvider,
    client: ProviderClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triggers, "DEADLINE_SECONDS", 2.0)
    sender = TriggerSender(
        live_settings(database_url, fake_at.url, at_max_requests_per_second=0.1), database, client
    )
    outcomes = []
    for number in range(4):
        try:
            sender.send_now("Hello", [phone(number)], None)
            outcomes.append("accepted")
        except Busy:
            outcomes.append("busy")
    assert outcomes[0] == "accepted"
    assert outcomes[-1] == "busy"
    assert Counter(statuses_of(database)) == {
        "accepted": outcomes.count("accepted"),
        "cancelled": outcomes.count("busy"),
    }
    assert len(fake_at.posts) == outcomes.count("accepted")


def test_a_turn_that_came_too_late_to_be_used_is_given_back_and_nothing_is_sent(
    database: Database, fake_at: FakeProvider, sender: TriggerSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "DEADLINE_SECONDS", triggers.LEAST_POST_SECONDS / 2)
    with pytest.raises(Busy):
        sender.send_now("Hello", phones(2), None)
    assert fake_at.posts == []
    assert statuses_of(database) == ["cancelled"] * 2
    assert [row.state for row in every(database, tables.attempts)] == ["released"]


def test_the_same_key_again_gets_the_first_answer_and_sends_nothing(
    database: Database, fake_at: FakeProvider, sender: TriggerSender
) -> None:
    first = sender.send_now("Hello", phones(2), None, "key")
    again = sender.send_now("Hello", phones(2), None, "key")
    assert again == first
    assert len(fake_at.posts) == 1
    assert count(database, tables.messages) == 2


def test_the_answer_of_the_first_call_names_who_was_blocked(
    database: Database, sender: TriggerSender
) -> None:
    opt_out(database, phone(1))
    first = sender.send_now("Hello", phones(2), None, "key")
    assert sender.send_now("Hello", phones(2), None, "key") == first
    assert first.blocked == [phone(1)]


@pytest.mark.parametrize(
    ("text", "numbers", "sender_id"), [("Bye", 1, None), ("Hello", 2, None), ("Hello", 1, "X")]
)
def test_the_same_key_for_another_request_is_refused(
    sender: TriggerSender, fake_at: FakeProvider, text: str, numbers: int, sender_id: str | None
) -> None:
    sender.send_now("Hello", phones(1), None, "key")
    with pytest.raises(idempotency.KeyReused):
        sender.send_now(text, phones(numbers), sender_id, "key")
    assert len(fake_at.posts) == 1


def test_while_the_first_call_is_running_the_second_is_told_so(
    database: Database, fake_at: FakeProvider, sender: TriggerSender
) -> None:
    fake_at.hold.clear()
    thread = threading.Thread(target=sender.send_now, args=("Hello", phones(1), None, "key"), daemon=True)
    thread.start()
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    with pytest.raises(idempotency.StillRunning):
        sender.send_now("Hello", phones(1), None, "key")
    fake_at.hold.set()
    thread.join(TIMEOUT_SECONDS)
    assert sender.send_now("Hello", phones(1), None, "key").accepted == phones(1)
    assert len(fake_at.posts) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"status_429": {"count": 1}},
        {"bad_key": {"count": 1}},
        {"invalid_sender": {"count": 1}},
        {"insufficient_balance": {"count": 1}},
    ],
    ids=lambda one: next(iter(one)),
)
def test_a_key_whose_first_call_sent_nothing_may_send_again(
    database: Database, simulator: SimulatorProcess, simulated: TriggerSender, fault: dict[str, Any]
) -> None:
    simulator.fault(**fault)
    with pytest.raises(Exception) as refusal:
        simulated.send_now("Hello", phones(1), None, "key")
    assert refusal.value.__class__.__name__ != "OutcomeUnknown"
    assert simulated.send_now("Hello", phones(1), None, "key").accepted == phones(1)
    assert len(simulator.ledger()) == 1
    assert simulated.send_now("Hello", phones(1), None, "key").accepted == phones(1)
    assert len(simulator.ledger()) == 1


def lose_the_answer(_database: Database, _clock: Clock, simulator: SimulatorProcess) -> None:
    simulator.fault(reset_after_accept={"count": 1})


def leave_everybody_out(_database: Database, _clock: Clock, simulator: SimulatorProcess) -> None:
    simulator.fault(drop_recipients={"count": 1})


@pytest.mark.parametrize("lose", [lose_the_answer, leave_everybody_out])
def test_a_key_whose_first_call_may_have_sent_never_sends_again(
    database: Database,
    simulator: SimulatorProcess,
    simulated: TriggerSender,
    clock: Clock,
    lose: Callable[[Database, Clock, SimulatorProcess], None],
) -> None:
    lose(database, clock, simulator)
    for _ in range(3):
        with pytest.raises(OutcomeUnknown):
            simulated.send_now("Hello", phones(1), None, "key")
    assert len(simulator.ledger()) == 1
    assert count(database, tables.messages) == 1


def test_a_key_whose_process_died_in_mid_post_never_sends_again(
    database: Database, fake_at: FakeProvider, sender: TriggerSender, clock: Clock
) -> None:
    died = sender._accept("Hello", phones(1), None, "key")
    assert died.claim is not None
    start_post.begin_posting(database, died.claim, Rates(1000, 1000), triggers.LEASE)
    with pytest.raises(idempotency.StillRunning):
        sender.send_now("Hello", phones(1), None, "key")
    clock.step(seconds=triggers.LEASE.total_seconds() + 1)
    sweep.sweep_expired_leases(database)
    with pytest.raises(OutcomeUnknown):
        sender.send_now("Hello", phones(1), None, "key")
    assert fake_at.posts == []


def test_a_key_whose_process_died_before_its_post_may_send(
    database: Database, fake_at: FakeProvider, sender: TriggerSender, clock: Clock
) -> None:
    sender._accept("Hello", phones(1), None, "key")
    clock.step(seconds=triggers.LEASE.total_seconds() + 1)
    sweep.sweep_expired_leases(database)
    assert sender.send_now("Hello", phones(1), None, "key").accepted == phones(1)
    assert len(fake_at.posts) == 1


def test_a_key_whose_people_opted_out_stays_refused(database: Database, sender: TriggerSender) -> None:
    opt_out(database, phone(1))
    for _ in range(2):
        with pytest.raises(OptedOut):
            sender.send_now("Hello", phones(1), None, "key")
    assert count(database, tables.messages) == 1


def test_threads_that_race_with_one_key_send_once(
    database: Database, simulator: SimulatorProcess, simulated: TriggerSender
) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(4)

    def call() -> None:
        start.wait(TIMEOUT_SECONDS)
        try:
            simulated.send_now("Hello", phones(1), None, "key")
            outcomes.append("accepted")
        except idempotency.StillRunning:
            outcomes.append("running")

    threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    assert len(outcomes) == 4
    assert "accepted" in outcomes
    assert len(simulator.ledger()) == count(database, tables.messages) == 1


def test_processes_that_race_with_one_key_send_once(
    database: Database, simulator: SimulatorProcess, simulator_settings: Settings
) -> None:
    call = (simulator_settings, "Hello", phones(1), "key")
    outcomes = in_processes(trigger, [call] * 3)
    assert "accepted" in outcomes
    assert set(outcomes) <= {"accepted", idempotency.StillRunning.code}
    assert len(simulator.ledger()) == count(database, tables.messages) == 1


@pytest.fixture
def proxy(database_url: str) -> Iterator[PostgresqlProxy]:
    with PostgresqlProxy(database_url) as found:
        yield found


@pytest.fixture
def behind_proxy(
    at_settings: Settings, proxy: PostgresqlProxy, client: ProviderClient
) -> Iterator[TriggerSender]:
    """Its database may go away; `database` goes past the proxy."""
    found = Database(proxy.url.replace("postgresql://", "postgresql+psycopg://", 1))
    yield TriggerSender(at_settings, found, client)
    found.close()


def send_while_the_database_goes(
    sender: TriggerSender, proxy: PostgresqlProxy, fake_at: FakeProvider
) -> tuple[Any, float]:
    """What the caller got, and after how many seconds."""
    got: list[Any] = []

    def call() -> None:
        try:
            got.append(sender.send_now("Hello", phones(2), None))
        except ServiceError as error:
            got.append(error)

    fake_at.hold.clear()
    thread = threading.Thread(target=call)
    began_at = time.monotonic()
    thread.start()
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    proxy.is_away = True
    fake_at.hold.set()
    thread.join(2 * TIMEOUT_SECONDS)
    return got[0], time.monotonic() - began_at


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_goes_away_while_at_answers_does_not_take_ats_answer_from_the_caller(
    database: Database,
    proxy: PostgresqlProxy,
    behind_proxy: TriggerSender,
    fake_at: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triggers, "DEADLINE_SECONDS", 3.0)
    result, seconds = send_while_the_database_goes(behind_proxy, proxy, fake_at)
    assert seconds < 4
    assert result.accepted == phones(2)
    assert statuses_of(database) == ["sending"] * 2
    proxy.is_away = False
    eventually(lambda: statuses_of(database) == ["accepted"] * 2, "the answer is recorded behind it")


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_lost_answer_is_told_as_unknown_though_the_database_went_away_too(
    database: Database,
    proxy: PostgresqlProxy,
    behind_proxy: TriggerSender,
    fake_at: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triggers, "DEADLINE_SECONDS", 3.0)
    fake_at.script.append((500, "text/plain", "oops"))
    result, seconds = send_while_the_database_goes(behind_proxy, proxy, fake_at)
    assert seconds < 4
    assert isinstance(result, OutcomeUnknown)
    proxy.is_away = False
    eventually(lambda: statuses_of(database) == ["unknown"] * 2, "the failure is recorded behind it")


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_a_trigger_that_lost_the_line_when_it_was_written_down_is_never_sent(
    database: Database,
    proxy: PostgresqlProxy,
    behind_proxy: TriggerSender,
    fake_at: FakeProvider,
    clock: Clock,
    moment: str,
) -> None:
    """So its caller may try again."""
    proxy.cut_at_commit = moment
    with pytest.raises(OperationalError):
        behind_proxy.send_now("Hello", phones(2), None)
    clock.step(seconds=triggers.LEASE.total_seconds() + 1)
    sweep.sweep_expired_leases(database)
    assert statuses_of(database) == (["cancelled"] * 2 if moment == AFTER else [])
    assert fake_at.posts == []


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_a_trigger_that_lost_the_line_when_it_was_marked_as_leaving_is_sent_once(
    database: Database,
    proxy: PostgresqlProxy,
    behind_proxy: TriggerSender,
    fake_at: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    begin_posting = start_post.begin_posting

    def cut_once(*arguments: Any) -> start_post.Turn:
        proxy.cut_at_commit = moment
        proxy.on_cut = lambda: setattr(proxy, "cut_at_commit", NEVER)
        return begin_posting(*arguments)

    monkeypatch.setattr(start_post, "begin_posting", cut_once)
    assert behind_proxy.send_now("Hello", phones(2), None).accepted == phones(2)
    assert proxy.cuts == 1
    assert len(fake_at.posts) == 1
    assert statuses_of(database) == ["accepted"] * 2
