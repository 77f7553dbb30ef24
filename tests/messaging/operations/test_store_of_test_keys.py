"""The second service: what it shares with the live one, and what it never does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from messaging.access import keys
from messaging.messages.queue import NewMessage, enqueue
from messaging.messages.status_events import settle
from messaging.operations import doctor
from messaging.operations.account_check import WrongDatabase
from messaging.operations.forget import forget
from messaging.operations.store_of_test_keys import StoreOfTestKeys, settings_of
from messaging.service import Service
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.settings import Settings

OF_AN_ACCOUNT = {
    "at_username": "acme",
    "at_api_key": "the-key-of-the-account",
    "at_base_url": "https://at.example.org",
    "daily_limit": "KES 5",
    "approval_above": 3,
    "forward_url": "https://hooks.example.org",
    "forward_secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
}


@pytest.fixture
def live(database_url: str) -> Iterator[Service]:
    service = Service(Settings.model_validate({"database_url": database_url} | OF_AN_ACCOUNT))
    yield service
    service.database.close()


@pytest.fixture
def tested(live: Service) -> Iterator[Service]:
    service = StoreOfTestKeys(live).open()
    yield service
    service.database.close()


def test_store_witness_provider_and_brakes_are_not_the_accounts(live: Service) -> None:
    ours = settings_of(live.settings)
    assert ours.database_url not in (live.settings.database_url, None)
    assert ours.witness_dir != live.settings.witness_dir
    assert not {"acme", "the-key-of-the-account", "https://at.example.org"} & {
        ours.provider_username,
        ours.provider_api_key,
        ours.provider_host,
    }
    assert (ours.daily_limit, ours.approval_above) == (None, None)


def test_the_store_is_migrated_when_it_is_opened_and_only_once(live: Service, tested: Service) -> None:
    with tested.database.read() as connection:
        assert connection.execute(select(tables.messages)).all() == []
    second = StoreOfTestKeys(live)
    assert second.open() is second.open()
    second.open().database.close()


def test_there_are_test_keys_once_one_was_made_or_their_store_is_there(live: Service) -> None:
    assert not StoreOfTestKeys(live).are_used()
    keys.create(live.database, "billing", ["send"])
    assert not StoreOfTestKeys(live).are_used()
    keys.create(live.database, "trial", ["send"], test=True)
    assert StoreOfTestKeys(live).are_used()


def test_a_store_that_serves_an_account_is_refused(live: Service, tested: Service) -> None:
    with tested.database.write() as connection:
        connection.execute(tables.service_identity.update().values(account="acme", host="at.example.org"))
    with pytest.raises(WrongDatabase, match="TEST_KEYS_DATABASE_URL"):
        StoreOfTestKeys(live).open()


def test_events_of_test_keys_say_so_and_those_of_others_do_not(tested: Service, database: Database) -> None:
    database.forwards = True
    assert _told(tested.database)["test"] is True
    assert "test" not in _told(database)


def _told(database: Database) -> dict[str, object]:
    with database.write() as connection:
        ids = enqueue(connection, [NewMessage("+254711000001", "Hi")])
        settle(connection, ids, "cancelled", "by_hand", wall_clock(connection), source="operator")
        (body,) = connection.execute(select(tables.forward_events.c.body)).scalars()
    told: dict[str, object] = json.loads(body)
    return told


def test_the_doctor_says_whether_the_store_can_be_used(live: Service, database_url: str) -> None:
    assert list(doctor._test_keys(live)) == []
    keys.create(live.database, "trial", ["send"], test=True)
    (well,) = doctor._test_keys(live)
    assert (well.part, well.is_well) == ("test keys", True)
    gone = {"database_url": database_url, "test_keys_database_url": "postgresql://nobody@127.0.0.1:1/none"}
    service = Service(Settings.model_validate(gone | OF_AN_ACCOUNT))
    (ill,) = doctor._test_keys(service)
    assert not ill.is_well
    service.database.close()


def test_who_is_forgotten_is_forgotten_in_test_data_too(live: Service) -> None:
    """For the command and for the page, which call the same."""
    keys.create(live.database, "trial", ["send"], test=True)
    tested = StoreOfTestKeys(live).open()
    for database in (live.database, tested.database):
        with database.write() as connection:
            ids = enqueue(connection, [NewMessage("+254711000001", "About Ann")])
            settle(connection, ids, "cancelled", "by_hand", wall_clock(connection), source="operator")
    found = forget(live, "+254711000001")
    assert (found["messages"], found["test_messages"]) == (1, 1)
    with tested.database.read() as connection:
        assert "About Ann" not in str(connection.execute(select(tables.messages)).all())
    tested.database.close()
