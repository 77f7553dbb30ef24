from __future__ import annotations

from datetime import timedelta

import pytest

from messaging.costs import balance
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.fake_provider import FakeProvider
from tests.support.web import Caller


def test_the_balance_is_asked_once_a_minute(caller: Caller, provider: FakeProvider) -> None:
    for _ in range(3):
        answer = caller.get("/v1/balance")
        assert answer.status_code == 200
        assert answer.json["balance"] == {"amount": "120.5000", "currency": "KES"}  # type: ignore[index]
    assert provider.balance_reads == 1


def test_a_balance_that_is_old_is_asked_again(
    caller: Caller, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balance, "KEPT_SECONDS", -1.0)
    caller.get("/v1/balance")
    provider.balance = "KES -14.5731"
    answer = caller.get("/v1/balance")
    assert answer.json["balance"] == {"amount": "-14.5731", "currency": "KES"}  # type: ignore[index]


def test_an_answer_that_cannot_be_read_is_an_error_and_not_kept(
    caller: Caller, provider: FakeProvider
) -> None:
    provider.balance = "plenty"
    answer = caller.get("/v1/balance")
    assert (answer.status_code, answer.json["error"]["code"]) == (502, "provider_unavailable")  # type: ignore[index]
    provider.balance = "KES 1.0000"
    assert caller.get("/v1/balance").status_code == 200


def test_what_was_sent_is_told_by_day(caller: Caller, database: Database) -> None:
    delivery.queue(database, delivery.phone(1), expires_at=utc_now() + timedelta(hours=1))
    delivery.change(database, tables.messages, 1, expires_at=utc_now() - timedelta(hours=1))
    delivery.claim(database)
    found = caller.get("/v1/stats").json
    assert found is not None
    assert (found["bucket"], found["time_zone"], len(found["items"])) == ("day", "UTC", 7)
    assert found["totals"] == {"counts": {"expired": 1}, "costs": [], "parts": 0}
    assert found["reasons"][0]["reason"] == "too_late"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"bucket": "month"}, "bucket"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2020-01-01"}, "since"),
        ({"day": "today"}, "day"),
    ],
)
def test_a_bad_question_about_figures_is_refused_with_its_field(
    caller: Caller, query: dict[str, str], field: str
) -> None:
    answer = caller.get("/v1/stats", **query)
    assert (answer.status_code, answer.json["error"]["field"]) == (400, field)  # type: ignore[index]
