"""What the doctor says of brakes: which are on, what is spent, what cannot be counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from messaging.access import keys
from messaging.operations import doctor
from messaging.operations.doctor import Finding, examine
from messaging.service import Service
from messaging.storage.database import Database
from tests.support import delivery
from utils.settings import Settings


@pytest.fixture(autouse=True)
def _is_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' tables are made without Alembic."""
    monkeypatch.setattr(doctor, "require_migrated", lambda _database: None)


@pytest.fixture
def brakes(database_url: str) -> Iterator[Service]:
    service = Service(
        Settings.model_validate(
            {
                "database_url": database_url,
                "daily_limit": "KES 5000",
                "sender_daily_limits": "news=USD 20",
                "approval_above": "KES 2000",
                "unusual_factor": "40",
            }
        )
    )
    yield service
    service.database.close()


def finding(service: Service) -> Finding:
    # No further: behind it the provider is asked.
    return next(one for one in examine(service) if one.part == "brakes")


def test_limits_are_shown_with_what_is_spent_and_what_they_cannot_count(
    brakes: Service, database: Database
) -> None:
    keys.create(database, "billing", ["send"], daily_limit="KES 80")
    found = finding(brakes)
    # Nothing was ever sent: the first answer tells a price.
    assert found.is_well
    assert found.says == (
        "0.00 of KES 5,000.00 a day is spent; 0.00 of USD 20.00 a day for sender NEWS is spent;"
        " 0.00 of KES 80.00 a day for key billing is spent; a batch above KES 2000 needs approval;"
        " a batch above 40 times the usual day is paused;"
        " a limit cannot count before an answer has told a price: no price in KES, USD is known"
    )
    delivery.know_price(database)
    found = finding(brakes)
    assert not found.is_well
    assert found.says.endswith("no price in USD is known")


def test_without_brakes_it_says_so(database_url: str, database: Database) -> None:
    service = Service(Settings(database_url=database_url))
    assert finding(service) == Finding("brakes", True, "none is set")
    service.database.close()
