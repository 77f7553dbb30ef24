"""Times at the ends of the calendar: an answer or a sentence, never a failure."""

from __future__ import annotations

import pytest
from flask_openapi.openapi import OpenAPI

from tests.support.web import Caller

FAR = (
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-12:00",
)
LISTS = ("messages", "inbound", "opt-outs", "actions", "stats")


@pytest.fixture
def calling(app: OpenAPI, caller: Caller) -> Caller:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert caller.post("/v1/messages", {"to": "+254711000001", "text": "Hello"}).status_code == 202
    return caller


@pytest.mark.parametrize("path", LISTS)
def test_a_filter_by_such_a_time_is_answered(calling: Caller, path: str) -> None:
    answers = {
        (name, far): calling.get(f"/v1/{path}", **{name: far}).status_code
        for name in ("since", "until")
        for far in FAR
    }
    assert {key: status for key, status in answers.items() if status not in (200, 400)} == {}


@pytest.mark.parametrize("far", FAR)
def test_nothing_is_sent_at_such_a_time(calling: Caller, far: str) -> None:
    for name in ("send_at", "expires_at"):
        answer = calling.post("/v1/messages", {"to": "+254711000001", "text": "Hello", name: far})
        # What never expires may as well expire then.
        wanted = (202,) if (name, far[:4]) == ("expires_at", "9999") else (400,)
        assert answer.status_code in wanted, (name, answer.text)
        if answer.status_code == 400:
            assert answer.json["error"]["field"] == name  # type: ignore[index]
