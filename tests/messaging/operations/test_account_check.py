from __future__ import annotations

import pytest

from messaging.operations.account_check import WrongDatabase, claim_identity
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import count, live_settings
from utils.settings import Settings

LIVE = {"at_username": "acme", "at_base_url": None}


def account(database_url: str, **overrides: object) -> Settings:
    return live_settings(database_url, "https://api.africastalking.com", **overrides)


def test_the_same_account_may_start_again_and_again(database: Database, database_url: str) -> None:
    for _ in range(3):
        claim_identity(database, account(database_url, **LIVE))
    assert count(database, tables.service_identity) == 1


def test_the_simulator_on_a_real_accounts_books_is_refused(
    database: Database, database_url: str, settings: Settings
) -> None:
    claim_identity(database, account(database_url, **LIVE))
    with pytest.raises(WrongDatabase) as refusal:
        claim_identity(database, settings)
    sentence = str(refusal.value)
    assert "acme" in sentence
    assert "api.africastalking.com" in sentence
    assert "simulator" in sentence
    assert "DATABASE_URL" in sentence
    assert "AT_USERNAME" in sentence


def test_a_real_account_on_the_simulators_books_is_refused(
    database: Database, database_url: str, settings: Settings
) -> None:
    claim_identity(database, settings)
    with pytest.raises(WrongDatabase):
        claim_identity(database, account(database_url, **LIVE))


def test_another_account_is_refused(database: Database, database_url: str) -> None:
    claim_identity(database, account(database_url, **LIVE))
    with pytest.raises(WrongDatabase):
        claim_identity(database, account(database_url, **(LIVE | {"at_username": "other"})))


def test_the_same_account_at_another_host_is_refused(database: Database, database_url: str) -> None:
    claim_identity(database, account(database_url, at_username="acme"))
    with pytest.raises(WrongDatabase):
        claim_identity(
            database, account(database_url, at_username="acme", at_base_url="http://127.0.0.1:8001")
        )


def test_the_sandbox_of_at_is_not_the_live_service(database: Database, database_url: str) -> None:
    claim_identity(database, account(database_url, **(LIVE | {"at_username": "sandbox"})))
    with pytest.raises(WrongDatabase):
        claim_identity(database, account(database_url, **LIVE))


def test_the_simulator_may_move_to_another_port(database: Database, database_url: str) -> None:
    claim_identity(database, Settings(database_url=database_url, simulator_port=8001))
    claim_identity(database, Settings(database_url=database_url, simulator_port=9001))


def test_a_refusal_leaves_the_books_to_the_first(database: Database, database_url: str) -> None:
    claim_identity(database, account(database_url, **LIVE))
    with pytest.raises(WrongDatabase):
        claim_identity(database, Settings(database_url=database_url))
    claim_identity(database, account(database_url, **LIVE))
