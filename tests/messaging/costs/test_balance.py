from __future__ import annotations

import threading
import time
from decimal import Decimal

import pytest

from messaging.costs.balance import KEPT_SECONDS, Balance
from utils.errors import ProviderUnreachable
from utils.money import Money


class Account:
    """Answers when it is told to."""

    def __init__(self, answers: bool) -> None:
        self.answers = answers
        self.asked = 0
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def fetch_balance(self, *, deadline_seconds: float | None = None) -> Money:
        self.asked += 1
        self.is_asked.set()
        self.may_answer.wait(10)
        if self.answers:
            return Money(Decimal("12.50"), "KES")
        raise ProviderUnreachable(reason="connection_failed")


def test_one_page_waits_for_the_provider_and_no_other() -> None:
    account = Account(answers=True)
    balance = Balance(account)
    first = threading.Thread(target=balance.glance)
    first.start()
    assert account.is_asked.wait(10)
    assert balance.glance() is None
    account.may_answer.set()
    first.join()
    found = balance.glance()
    assert found is not None
    assert (found["balance"]["currency"], account.asked) == ("KES", 1)


def test_after_no_answer_the_next_pages_do_not_ask() -> None:
    account = Account(answers=False)
    account.may_answer.set()
    balance = Balance(account)
    assert [balance.glance(), balance.glance()] == [None, None]
    assert account.asked == 1


def test_who_waits_for_a_question_that_fails_shares_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account(answers=False)
    balance = Balance(account)
    failures: list[ProviderUnreachable] = []
    begun = threading.Semaphore(0)
    monotonic = time.monotonic

    def tell() -> float:
        """It is asked for the time once by each, before the account has answered."""
        if threading.current_thread() in readers:
            begun.release()
        return monotonic()

    def read() -> None:
        with pytest.raises(ProviderUnreachable) as failed:
            balance.read()
        failures.append(failed.value)

    monkeypatch.setattr("time.monotonic", tell)
    readers = [threading.Thread(target=read) for _ in range(5)]
    for one in readers:
        one.start()
    for _ in readers:
        assert begun.acquire(timeout=10)
    account.may_answer.set()
    for one in readers:
        one.join()
    assert (len(failures), account.asked) == (5, 1)


def test_who_asks_after_a_failure_asks_again_and_a_page_waits_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    account = Account(answers=False)
    account.may_answer.set()
    balance = Balance(account)
    with pytest.raises(ProviderUnreachable):
        balance.read()
    account.answers = True
    now += KEPT_SECONDS - 1
    assert balance.glance() is None
    assert account.asked == 1
    assert balance.read()["balance"]["currency"] == "KES"
    assert balance.glance() is not None
    assert account.asked == 2
