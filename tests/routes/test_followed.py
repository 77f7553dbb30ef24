"""One message followed through the log, from the call that asked for it to its report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.sending.sender import MessageSender
from messaging.service import Service
from messaging.storage.database import Database
from tests.support.web import Caller
from utils.logs import ACCESS_NOTE, RequestIdFilter

ALICE, BOB = "+254711000001", "+254711000002"
ASKED_IN = "4f1c-77aa"


def lines_about(caplog: pytest.LogCaptureFixture, message_id: int) -> list[dict[str, Any]]:
    found = [vars(record) for record in caplog.records]
    return [line for line in found if message_id in line.get("message_ids", [])]


def send_all(app: OpenAPI) -> None:
    service: Service = app.extensions["sms"]
    MessageSender(service.settings, service.database, service.provider).run_until_idle()


def test_a_message_is_followed_from_the_call_to_its_report(
    app: OpenAPI, caller: Caller, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    environs: list[dict[str, Any]] = []
    serve = app.wsgi_app
    monkeypatch.setattr(app, "wsgi_app", lambda *asked: [environs.append(asked[0]), serve(*asked)][1])
    answer = app.test_client().post(
        "/v1/messages",
        json={"to": [ALICE, BOB], "text": "hello"},
        headers={"Authorization": "Bearer a-key-of-the-tests", "X-Request-Id": ASKED_IN},
    )
    note = environs[0][ACCESS_NOTE]
    message_id = answer.json["messages"][0]["id"]  # type: ignore[index]
    assert answer.headers["X-Request-Id"] == ASKED_IN
    assert note["actor"] == "key:environment"
    assert (note["batch_id"], note["message_ids"][0]) == (answer.json["batch_id"], message_id)  # type: ignore[index]

    with caplog.at_level(logging.INFO):
        send_all(app)
        sent = caller.message(message_id)
        caller.callback("/sms/delivery-reports", {"id": sent["provider_message_id"], "status": "Success"})
        caller.apply_reports()

    posted, reported = lines_about(caplog, message_id)
    assert (posted["message"], posted["outcomes"]) == ("a POST is recorded", {"accepted": 2})
    assert (reported["message"], reported["status"]) == ("reports moved messages", "delivered")
    assert caller.message(message_id)["request_id"] == ASKED_IN
    assert caller.get(f"/v1/batches/{note['batch_id']}").json["request_id"] == ASKED_IN  # type: ignore[index]
    assert "711000001" not in caplog.text


def test_a_trigger_s_lines_have_its_request(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    with caplog.at_level(logging.INFO):
        answer = caller.get(f"/sms/invoke-bulk-sms?phone={ALICE[1:]}", headers={"X-Request-Id": ASKED_IN})
    assert answer.status_code == 200
    sent = caller.messages()[0]
    (posted,) = lines_about(caplog, sent["id"])
    assert (posted["request_id"], sent["request_id"]) == (ASKED_IN, ASKED_IN)


def test_nothing_is_said_of_reports_that_were_not_kept(
    caller: Caller, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Sequence[int]:
        raise RuntimeError("before the commit")

    caller.get(f"/sms/invoke-bulk-sms?phone={ALICE[1:]}")
    sent = caller.messages()[0]
    caller.callback("/sms/delivery-reports", {"id": sent["provider_message_id"], "status": "Success"})
    monkeypatch.setattr("messaging.callbacks.journal.set_outcome", refuse)
    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError):
        caller.apply_reports()
    assert [one for one in caplog.messages if "reports moved" in one] == []
    monkeypatch.undo()
    with caplog.at_level(logging.INFO):
        caller.apply_reports()
    assert [one for one in caplog.messages if "reports moved" in one] == ["reports moved messages"]
