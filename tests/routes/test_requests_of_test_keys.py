"""Where a test key leads, and where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask_openapi.openapi import OpenAPI
from werkzeug.test import TestResponse

from messaging.access import keys
from messaging.access.keys import Holder
from routes import guards, requests_of_test_keys
from routes.scopes import ADMIN, SEND, SENDS_OF_TEST_KEYS, scope_of
from tests.routes.conftest import MakeApp
from tests.support.fake_provider import FakeProvider
from tests.support.web import API_KEY, Caller

PHONE = "+254711000001"


@pytest.fixture
def app(make_app: MakeApp, tmp_path: Path) -> OpenAPI:
    return make_app(test_keys_database_url=f"sqlite:///{tmp_path}/tests.db", web_threads=4)


@pytest.fixture
def key(app: OpenAPI) -> str:
    return _make(app, "trial", ["send", "read"])


def _make(app: OpenAPI, name: str, scopes: list[str]) -> str:
    return keys.create(app.extensions["sms"].database, name, scopes, test=True)[0]


def call(app: OpenAPI, key: str, method: str, path: str, **given: object) -> TestResponse:
    headers = {"Authorization": f"Bearer {key}"}
    return app.test_client().open(path, method=method, headers=headers, **given)  # type: ignore[arg-type]


def test_a_test_key_sends_and_reads_and_the_provider_hears_nothing(
    app: OpenAPI, key: str, caller: Caller, provider: FakeProvider
) -> None:
    sent = call(app, key, "GET", "/sms/invoke-bulk-sms", query_string={"phone": PHONE})
    queued = call(app, key, "POST", "/v1/messages", json={"to": PHONE, "text": "Hi"})

    assert sent.json["message"] == f"SMS sent to {PHONE}"  # type: ignore[index]
    assert queued.status_code == 202
    assert [one["status"] for one in call(app, key, "GET", "/v1/messages").json["items"]] == [  # type: ignore[index]
        "queued",
        "accepted",
    ]
    assert (caller.messages(), provider.posts) == ([], [])


def test_errors_and_headers_are_those_of_any_key(app: OpenAPI, key: str) -> None:
    missing = call(app, key, "GET", "/v1/messages/999")
    refused = call(app, key, "GET", "/sms/invoke-bulk-sms")
    assert (missing.status_code, missing.json["error"]["code"]) == (404, "not_found")  # type: ignore[index]
    assert (refused.status_code, refused.json["code"]) == (400, "missing_phone")  # type: ignore[index]
    assert len(missing.headers.getlist("X-Request-Id")) == 1
    assert missing.headers["Cache-Control"] == "no-store"


def test_its_scopes_count(app: OpenAPI) -> None:
    reader, sender = _make(app, "reader", ["read"]), _make(app, "sender", ["send"])
    assert call(app, reader, "POST", "/v1/messages", json={"to": PHONE, "text": "Hi"}).status_code == 403
    assert call(app, sender, "GET", "/v1/messages").status_code == 403
    assert call(app, sender, "PUT", f"/v1/consents/{PHONE}", json={"source": "form"}).status_code == 200
    assert call(app, reader, "PUT", f"/v1/consents/{PHONE}", json={"source": "form"}).status_code == 403
    assert call(app, sender, "POST", "/v1/forwarding/resume").status_code == 403


def test_what_only_a_test_key_may_do_with_send_needs_admin_of_a_live_one(app: OpenAPI) -> None:
    for endpoint in SENDS_OF_TEST_KEYS:
        assert endpoint in app.view_functions
        assert (scope_of(endpoint, "POST"), scope_of(endpoint, "POST", is_test=True)) == (ADMIN, SEND)


def test_elsewhere_it_is_refused(app: OpenAPI, key: str) -> None:
    assert call(app, key, "GET", "/metrics").status_code == 403
    assert call(app, key, "GET", "/v1/actions").status_code == 403


def test_a_revoked_one_and_a_guess_are_nobodys(app: OpenAPI) -> None:
    revoked = _make(app, "revoked", ["read"])
    keys.revoke(app.extensions["sms"].database, "revoked")
    for wrong in (revoked, "sms_test_guess"):
        assert call(app, wrong, "GET", "/v1/messages").status_code == 401


def test_neither_app_lets_in_a_key_of_the_other_side(app: OpenAPI, key: str) -> None:
    """Were a request handed over wrongly, the guard behind would still refuse it."""
    assert call(app, key, "GET", "/v1/messages").status_code == 200
    ring = app.extensions[guards.KEY_RING]
    digest = keys.digest_of(key)
    _, holder = ring._remembered[digest]
    # Handed over by a ring that takes it for a test key, then found to be a live one.
    answers = iter([Holder(holder.name, holder.scopes, test=True), Holder(holder.name, holder.scopes)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "find", lambda _: next(answers))
        assert call(app, key, "GET", "/v1/messages").status_code == 403


def test_a_store_that_cannot_be_used_costs_test_keys_alone(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(test_keys_database_url="postgresql://nobody@127.0.0.1:1/none")
    key = _make(app, "trial", ["read"])
    answer = call(app, key, "GET", "/v1/messages")
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "storage_unavailable")  # type: ignore[index]
    assert call(app, API_KEY, "GET", "/v1/messages").status_code == 200


def test_calls_of_test_keys_take_no_more_than_their_share_of_the_threads(
    app: OpenAPI, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(app, key, "GET", "/v1/messages").status_code == 200
    answers: list[TestResponse] = []
    made = requests_of_test_keys._SecondApp._made

    def call_again(second: requests_of_test_keys._SecondApp) -> Flask:
        """Two of four threads are theirs: the call in the call in the call is one too many."""
        if len(answers) < 2:
            answers.append(call(app, key, "GET", "/v1/messages"))
        return made(second)

    monkeypatch.setattr(requests_of_test_keys._SecondApp, "_made", call_again)
    assert call(app, key, "GET", "/v1/messages").status_code == 200
    assert answers[0].json["error"]["code"] == "busy"  # type: ignore[index]
    assert call(app, API_KEY, "GET", "/v1/messages").status_code == 200
