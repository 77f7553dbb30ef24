from __future__ import annotations

import pytest
from werkzeug.test import TestResponse

from messaging.storage import rollback
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.fake_provider import FakeProvider
from tests.support.web import Caller

ALICE = "+254711000001"
INBOUND = {"from": ALICE, "to": "20880", "text": "Hello", "id": "an-inbound-id"}


@pytest.fixture(autouse=True)
def recovery(database: Database) -> None:
    with database.write() as connection:
        rollback.open_recovery(connection, rollback.RESTORED, wall_clock(connection))


def assert_refused(answer: TestResponse, code: str | None) -> None:
    assert (answer.status_code, code, answer.headers["Retry-After"]) == (503, "recovering", "10")


def test_what_would_send_is_refused_with_a_word_and_nothing_leaves(
    caller: Caller, provider: FakeProvider
) -> None:
    for path in ("/sms/invoke-bulk-sms", "/sms/invoke-twoway-sms"):
        trigger = caller.get(path, phone="254711000001", message="Hello")
        assert_refused(trigger, (trigger.json or {})["code"])
    send = caller.post("/v1/messages", {"to": ALICE, "text": "Hello"})
    assert_refused(send, (send.json or {})["error"]["code"])
    assert provider.posts == []
    assert caller.messages() == []


def test_callbacks_are_taken(caller: Caller) -> None:
    assert caller.callback("/sms/twoway", INBOUND).data == b"GOOD"
    report = {"id": "ATXid_1", "status": "Success", "phoneNumber": ALICE}
    assert caller.callback("/sms/delivery-reports", report).data == b"OK"
    assert caller.callback("/sms/opt-out", {"phoneNumber": ALICE, "senderId": "ACME"}).data == b"OK"
    assert len(caller.callbacks()) == 3
