from __future__ import annotations

import pytest

from messaging.sending import pauses, probes
from messaging.sending.sender import Sender
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import (
    Clock,
    count,
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


@pytest.fixture
def paused(database: Database, clock: Clock) -> Database:
    """With an account that has been paused for longer than a minute."""
    in_write(database, lambda connection, now: pauses.pause(connection, pauses.ACCOUNT, "why", None, now))
    clock.step(seconds=61)
    return database


def is_paused(database: Database) -> bool:
    return count(database, tables.pauses, tables.pauses.c.name == pauses.ACCOUNT) == 1


def test_an_account_that_is_fit_again_is_resumed_and_its_queue_woken(
    paused: Database, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    queue(paused, phone(1))
    woken: list[None] = []
    paused.wake = lambda: woken.append(None)
    assert probes.probe(paused, simulator_client)
    assert not is_paused(paused)
    assert woken == [None]
    assert simulator.posts() == []


def test_after_a_probe_one_message_finds_out_and_the_rest_follows_its_answer(
    paused: Database, simulator: SimulatorProcess, simulator_settings: Settings, clock: Clock
) -> None:
    """Some money is left, and too little: that must not try the whole queue again each minute."""
    queue_batch(paused, phones(20))
    client = ProviderClient.from_settings(simulator_settings)
    sender = Sender(simulator_settings, paused, client)
    simulator.fault(insufficient_balance=True)
    for _ in range(3):
        assert probes.probe(paused, client)
        sender.run_until_idle()
        clock.step(seconds=61)
    assert [post["recipients"] for post in simulator.posts()] == [1, 1, 1]
    assert set(statuses_of(paused)) == {"queued"}
    simulator.fault(insufficient_balance=False)
    assert probes.probe(paused, client)
    assert sender.run_until_idle() == 20
    assert [post["recipients"] for post in simulator.posts()[3:]] == [1, 19]
    client.close()


def test_a_key_that_is_still_refused_keeps_the_pause(
    paused: Database, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    simulator.fault(bad_key=True)
    assert not probes.probe(paused, simulator_client)
    assert is_paused(paused)


def test_a_provider_in_trouble_keeps_the_pause(
    paused: Database, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    simulator.fault(status_5xx=True)
    assert not probes.probe(paused, simulator_client)
    assert is_paused(paused)


def test_a_provider_that_cannot_be_reached_keeps_the_pause(paused: Database, database_url: str) -> None:
    nobody = live_settings(database_url, f"http://127.0.0.1:{free_port()}")
    client = ProviderClient.from_settings(nobody)
    assert not probes.probe(paused, client)
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
    assert probes.probe(paused, client) is resumes
    assert is_paused(paused) is not resumes


def test_only_one_of_many_workers_asks(
    paused: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.balance = "KES -1"
    assert [probes.probe(paused, client) for _ in range(3)] == [False] * 3
    assert fake_at.balance_reads == 1


def test_nothing_is_asked_while_nothing_is_paused(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    assert not probes.probe(database, client)
    assert fake_at.balance_reads == 0
