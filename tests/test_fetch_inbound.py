"""`sms fetch-inbound` after an outage, in the whole service: the web process is dead while people write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import KINDS, empty_database
from tests.support.stack import Stack, eventually

pytestmark = pytest.mark.processes

PHONE, OTHER, THIRD = "+254711000001", "+254711000002", "+254711000003"
NEVER_AGAIN = 3600.0
SOON = 1.0


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        yield url


def write_during_outage(stack: Stack) -> None:
    stack.kill("web")
    for phone, text in ((PHONE, "Habari"), (OTHER, "STOP"), (THIRD, "YES"), (THIRD, "YES")):
        stack.control("inbound", {"from": phone, "text": text, "to": "20880"})


def fetch(stack: Stack) -> dict[str, Any]:
    ran = stack.flask("sms", "fetch-inbound", "--json")
    assert ran.returncode == 0, ran.stderr
    done: dict[str, Any] = json.loads(ran.stdout)
    return done


def inbound(stack: Stack) -> list[str]:
    return sorted(item["text"] for item in stack.get("/v1/inbound").json()["items"])


def test_texts_whose_callbacks_were_lost_are_fetched_once(tmp_path: Path, database_url: str) -> None:
    stack = Stack(tmp_path, database_url, callback_retry_seconds=NEVER_AGAIN)
    try:
        stack.start_all()
        write_during_outage(stack)
        first, second = fetch(stack), fetch(stack)
        assert (first["read"], first["added"], second["read"]) == (4, 4, 0)
        stack.start("web")
        stack.wait_until_ready()
        assert inbound(stack) == ["Habari", "STOP", "YES", "YES"]
        eventually(lambda: stack.ledger(PHONE) and len(stack.ledger(THIRD)) == 2, "the replies arrived")
        assert stack.get("/sms/invoke-twoway-sms", phone=OTHER, message="Hello").json()["code"] == "opted_out"
    finally:
        stack.close()


def test_callbacks_that_come_after_the_fetch_are_the_same_texts(tmp_path: Path, database_url: str) -> None:
    stack = Stack(tmp_path, database_url, callback_retry_seconds=SOON)
    try:
        stack.start_all()
        write_during_outage(stack)
        assert fetch(stack)["added"] == 4
        stack.start("web")
        stack.wait_until_ready()
        eventually(
            lambda: len(stack.get("/v1/callbacks", kind="inbound").json()["items"]) == 4,
            "the callbacks came",
        )
        assert inbound(stack) == ["Habari", "STOP", "YES", "YES"]
        eventually(lambda: len(stack.ledger(THIRD)) == 2, "each text has its reply")
        assert fetch(stack)["read"] == 0
        assert len(stack.ledger(THIRD)) == 2
        assert len(stack.ledger(PHONE)) == 1
    finally:
        stack.close()


def test_the_exit_code_says_that_the_inbox_could_not_be_read(tmp_path: Path, database_url: str) -> None:
    stack = Stack(tmp_path, database_url)
    try:
        stack.migrate()
        ran = stack.flask("sms", "fetch-inbound")
        assert ran.returncode == 1
        assert "Error: Africa's Talking could not be reached" in ran.stderr
    finally:
        stack.close()
