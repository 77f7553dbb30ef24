from __future__ import annotations

import pytest

from messaging.costs import balance
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
