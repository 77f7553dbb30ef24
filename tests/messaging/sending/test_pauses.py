from __future__ import annotations

import pytest

from messaging.messages import pause_names
from messaging.sending import pauses
from messaging.sending.pauses import Pauses
from messaging.sending.sender import MessageSender
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import (
    Clock,
    count,
    every,
    in_write,
    live_settings,
    phone,
    phones,
    queue,
    queue_batch,
    statuses_of,
)
from tests.support.fake_provider import FakeProvider
from tests.support.simulator_process import SimulatorProcess
from tests.support.stack import free_port
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]


def pause(database: Database, name: str, reason: str = "why") -> None:
    in_write(database, lambda connection, now: pauses.pause(connection, name, reason, "detail", now))


def current(database: Database) -> Pauses:
    with database.read() as connection:
        return pauses.current(connection)


def test_nothing_is_paused_at_first(database: Database) -> None:
    assert not current(database).account
    assert not current(database).holds("ACME")


def test_a_paused_account_holds_every_sender(database: Database) -> None:
    pause(database, pause_names.ACCOUNT)
    assert current(database).account
    assert current(database).holds(None)
    assert current(database).holds("ACME")


def test_a_paused_sender_holds_only_itself_in_any_case_of_letters(database: Database) -> None:
    pause(database, pause_names.sender_name("Acme"))
    assert not current(database).account
    assert current(database).holds("ACME")
    assert current(database).holds("acme")
    assert not current(database).holds("OTHER")
    assert not current(database).holds(None)


def test_the_first_reason_is_kept_for_it_began_the_pause(database: Database) -> None:
    pause(database, pause_names.ACCOUNT, "insufficient_balance")
    pause(database, pause_names.ACCOUNT, "credentials_refused")
    (row,) = every(database, tables.pauses)
    assert (row.reason, row.detail) == ("insufficient_balance", "detail")


@pytest.mark.parametrize(
    ("name", "lifted", "left"), [(pause_names.ACCOUNT, 1, 1), (None, 2, 0), ("sender:X", 0, 2)]
)
def test_one_pause_is_lifted_or_all(database: Database, name: str | None, lifted: int, left: int) -> None:
    pause(database, pause_names.ACCOUNT)
    pause(database, pause_names.sender_name("ACME"))
    woken: list[None] = []
    database.wake = lambda: woken.append(None)
    with database.write() as connection:
        assert pauses.resume(connection, name) == lifted
    assert len(every(database, tables.pauses)) == left
    assert len(woken) == min(lifted, 1)


def test_nobody_probes_while_nothing_is_paused(database: Database) -> None:
    assert not pauses.take_probe(database)


def test_a_paused_sender_is_not_probed_for_the_balance_says_nothing_of_it(
    database: Database, clock: Clock
) -> None:
    pause(database, pause_names.sender_name("ACME"))
    clock.step(hours=1)
    assert not pauses.take_probe(database)


def test_one_probe_an_interval_whoever_asks(database: Database, clock: Clock) -> None:
    pause(database, pause_names.ACCOUNT)
    clock.step(seconds=44)
    assert not pauses.take_probe(database)
    clock.step(seconds=2)
    assert [pauses.take_probe(database) for _ in range(3)] == [True, False, False]
    clock.step(seconds=46)
    assert pauses.take_probe(database)


def test_nobody_waits_for_the_write_lock_to_learn_that_nothing_is_paused(database: Database) -> None:
    with database.write():
        assert not pauses.take_probe(database)


def test_a_clock_that_was_stepped_back_does_not_stop_the_probes(database: Database, clock: Clock) -> None:
    pause(database, pause_names.ACCOUNT)
    clock.set_wall(hours=-5)
    clock.step(seconds=61)
    assert pauses.take_probe(database)
    assert not pauses.take_probe(database)


@pytest.fixture
def paused(database: Database, clock: Clock) -> Database:
    """With an account that has been paused for longer than a minute."""
    in_write(
        database, lambda connection, now: pauses.pause(connection, pause_names.ACCOUNT, "why", None, now)
    )
    clock.step(seconds=61)
    return database


def is_paused(database: Database) -> bool:
    return count(database, tables.pauses, tables.pauses.c.name == pause_names.ACCOUNT) == 1


def test_an_account_that_is_fit_again_is_resumed_and_its_queue_woken(
    paused: Database, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    queue(paused, phone(1))
    woken: list[None] = []
    paused.wake = lambda: woken.append(None)
    assert pauses.probe(paused, simulator_client)
    assert not is_paused(paused)
    assert woken == [None]
    assert simulator.posts() == []


def test_after_a_probe_one_message_finds_out_and_the_rest_follows_its_answer(
    paused: Database, simulator: SimulatorProcess, simulator_settings: Settings, clock: Clock
) -> None:
    """Some money is left, and too little: that must not try the whole queue again each minute."""
    queue_batch(paused, phones(20))
    client = ProviderClient.from_settings(simulator_settings)
    sender = MessageSender(simulator_settings, paused, client)
    simulator.fault(insufficient_balance=True)
    for _ in range(3):
        assert pauses.probe(paused, client)
        sender.run_until_idle()
        clock.step(seconds=61)
    assert [post["recipients"] for post in simulator.posts()] == [1, 1, 1]
    assert set(statuses_of(paused)) == {"queued"}
    simulator.fault(insufficient_balance=False)
    assert pauses.probe(paused, client)
    assert sender.run_until_idle() == 20
    assert [post["recipients"] for post in simulator.posts()[3:]] == [1, 19]
    client.close()


def test_a_key_that_is_still_refused_keeps_the_pause(
    paused: Database, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    simulator.fault(bad_key=True)
    assert not pauses.probe(paused, simulator_client)
    assert is_paused(paused)


def test_a_provider_in_trouble_keeps_the_pause(
    paused: Database, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    simulator.fault(status_5xx=True)
    assert not pauses.probe(paused, simulator_client)
    assert is_paused(paused)


def test_a_provider_that_cannot_be_reached_keeps_the_pause(paused: Database, database_url: str) -> None:
    nobody = live_settings(database_url, f"http://127.0.0.1:{free_port()}")
    client = ProviderClient.from_settings(nobody)
    assert not pauses.probe(paused, client)
    client.close()
    assert is_paused(paused)


@pytest.mark.parametrize(
    ("balance", "resumes"), [("UGX -14.5731", False), ("KES 0.0000", False), ("KES 5", True)]
)
def test_an_account_without_money_stays_paused(
    paused: Database,
    fake_at: FakeProvider,
    client: ProviderClient,
    balance: str,
    resumes: bool,
) -> None:
    fake_at.balance = balance
    assert pauses.probe(paused, client) is resumes
    assert is_paused(paused) is not resumes


def test_only_one_of_many_workers_asks(
    paused: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.balance = "KES -1"
    assert [pauses.probe(paused, client) for _ in range(3)] == [False] * 3
    assert fake_at.balance_reads == 1


def test_nothing_is_asked_while_nothing_is_paused(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    assert not pauses.probe(database, client)
    assert fake_at.balance_reads == 0
