"""The machine's clock is set while real processes run: nothing stops, and nothing is sent twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from messaging.storage import tables
from messaging.storage.clocks import utc_now
from tests.support.databases import KINDS, empty_database, opened
from tests.support.set_clock import SettableClock
from tests.support.stack import Stack, eventually

SECONDS = 20.0

pytestmark = pytest.mark.processes


@pytest.fixture
def machine_clock(tmp_path: Path) -> SettableClock:
    return SettableClock(tmp_path)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def stack(database_url: str, machine_clock: SettableClock, tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path, database_url, machine_clock.environment)
    try:
        stack.start_all()
        yield stack
    finally:
        stack.close()


def send(stack: Stack, phone: str, **headers: str) -> Any:
    answer = stack.post("/v1/messages", {"to": phone, "text": "Hello"}, **headers)
    assert answer.status_code == 202, answer.text
    return answer


def leaves(stack: Stack, phone: str) -> None:
    eventually(lambda: stack.ledger(phone), f"a text leaves for {phone}", SECONDS)


def test_texts_leave_though_the_clock_was_set_back(
    stack: Stack, database_url: str, machine_clock: SettableClock
) -> None:
    stack.kill("worker")
    send(stack, "+254711000011")
    machine_clock.set(hours=-2)
    stack.start("worker")
    leaves(stack, "+254711000011")
    machine_clock.set(hours=-5)
    send(stack, "+254711000012")
    leaves(stack, "+254711000012")
    eventually(lambda: stack.get("/healthz?worker=1").status_code == 200, "the worker is seen", SECONDS)
    if database_url.startswith("sqlite"):
        eventually(lambda: "-10800" in stack.log("worker"), "the second step is logged", SECONDS)
        assert stack.log("worker").count("the clock was set") == 2
        assert "clock was set back by 10800 s" in stack.flask("sms", "doctor").stdout


def test_a_key_outlives_a_clock_that_was_set_forward(
    stack: Stack, database_url: str, machine_clock: SettableClock
) -> None:
    key = {"Idempotency-Key": "one order"}
    first = send(stack, "+254711000021", **key).json()
    leaves(stack, "+254711000021")
    machine_clock.set(hours=25)
    add_old_key(database_url)
    stack.kill("worker")
    stack.start("worker")
    eventually(lambda: not has_old_key(database_url), "a sweep forgets old keys", SECONDS)
    again = send(stack, "+254711000021", **key)
    assert again.headers["Idempotent-Replay"] == "true"
    assert again.json() == first
    send(stack, "+254711000022")
    leaves(stack, "+254711000022")
    assert len(stack.ledger("+254711000021")) == 1


def add_old_key(database_url: str) -> None:
    long_ago = utc_now() - timedelta(days=3)
    row = {"route": "test", "key": "old", "fingerprint": b"", "created_at": long_ago, "steady_at": long_ago}
    with opened(database_url) as database, database.write() as connection:
        connection.execute(insert(tables.idempotency_keys).values(**row))


def has_old_key(database_url: str) -> bool:
    keys = tables.idempotency_keys
    with opened(database_url) as database, database.read() as connection:
        return connection.execute(select(keys.c.key).where(keys.c.route == "test")).first() is not None
