from __future__ import annotations

import json
from pathlib import Path

import flask
import pytest
from flask_openapi.openapi import OpenAPI

from app import create_app
from messaging.operations import outages
from messaging.storage import commit_tokens
from tests.routes.conftest import MakeApp
from tests.support.postgresql_proxy import AFTER, NEVER, PostgresqlProxy
from tests.support.web import API_KEY, TOKEN, Caller
from utils.errors import OutcomeUnknown, ProviderThrottled
from utils.settings import Settings

KEY = {"Authorization": f"Bearer {API_KEY}"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing-here", 404, "not_found"),
        ("GET", "/sms/nothing", 404, "not_found"),
        ("DELETE", "/sms/", 405, "method_not_allowed"),
        ("GET", "/sms/twoway", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_outside_the_api_an_error_is_a_sentence_and_a_code(
    app: OpenAPI, method: str, path: str, status: int, code: str
) -> None:
    answer = app.test_client().open(path, method=method)
    assert answer.status_code == status
    assert answer.json is not None
    assert answer.json["code"] == code
    assert isinstance(answer.json["error"], str)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/messages/abc", 404, "not_found"),
        ("GET", "/v1/messages/1", 404, "not_found"),
        ("GET", "/v1/messages/99999999999999999999999", 404, "not_found"),
        ("DELETE", "/v1/messages", 405, "method_not_allowed"),
    ],
)
def test_in_the_api_an_error_is_an_object(
    app: OpenAPI, method: str, path: str, status: int, code: str
) -> None:
    answer = app.test_client().open(path, method=method, headers=KEY)
    assert answer.status_code == status
    assert answer.json is not None
    assert answer.json["error"]["code"] == code
    assert isinstance(answer.json["error"]["message"], str)


def test_a_405_says_what_is_allowed(app: OpenAPI) -> None:
    answer = app.test_client().get("/sms/twoway")
    assert "POST" in answer.headers["Allow"]


def test_an_unexpected_exception_tells_the_caller_only_a_request_id(
    make_app: MakeApp, capfd: pytest.CaptureFixture[str]
) -> None:
    app = make_app()

    @app.get("/broken", doc_ui=False)
    def broken() -> str:
        raise ZeroDivisionError("the secret inside")

    answer = app.test_client().get("/broken", headers={"X-Request-Id": "caller-chose-this-1"})

    assert answer.status_code == 500
    assert answer.json is not None
    assert (answer.json["code"], answer.json["request_id"]) == ("internal_error", "caller-chose-this-1")
    assert answer.headers["X-Request-Id"] == "caller-chose-this-1"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("given", ["x", "a b c d e f g h", "<script>alert(1)</script>", ""])
def test_a_request_id_that_is_not_plain_is_replaced(app: OpenAPI, given: str) -> None:
    chosen = app.test_client().get("/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert chosen != given
    assert len(chosen) == 32


@pytest.fixture(params=["sqlite", "postgresql"])
def cut_off(request: pytest.FixtureRequest, tmp_path: Path) -> OpenAPI:
    """The app on a database that nobody can open."""
    urls = {"sqlite": f"sqlite:///{tmp_path}", "postgresql": "postgresql://nobody@127.0.0.1:1/none"}
    settings = Settings(
        at_username="sandbox",
        at_api_key="provider-key",
        at_base_url="http://127.0.0.1:1",
        api_keys=(API_KEY,),
        webhook_tokens=(TOKEN,),
        database_url=urls[request.param],
        queue_url=f"sqlite:///{tmp_path}/queue.db",
    )
    return create_app(settings)


@pytest.mark.parametrize(
    "path", ["/sms/invoke-bulk-sms?phone=254711000001", "/v1/messages", "/v1/callbacks", "/metrics"]
)
def test_a_database_that_cannot_be_used_is_503(cut_off: OpenAPI, path: str) -> None:
    answer = Caller(cut_off).get(path)
    assert answer.status_code == 503
    assert "storage_unavailable" in answer.text
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("route", ["twoway", "delivery-reports", "opt-out", "subscription"])
def test_a_callback_that_could_not_be_stored_is_503_so_that_it_comes_again(
    cut_off: OpenAPI, route: str
) -> None:
    fields = {"id": "1", "from": "+254711000001", "to": "20880", "text": "a", "phoneNumber": "+254711000001"}
    assert Caller(cut_off).callback(f"/sms/{route}", fields).status_code == 503


def test_a_stranger_is_refused_without_the_database(cut_off: OpenAPI) -> None:
    assert Caller(cut_off).callback("/sms/twoway", {}, token="wrong").status_code == 403


HOSTILE = '"><script>alert(1)</script>'


@pytest.mark.parametrize("path", ["/docs", "/v1/messages", "/sms/", "/nothing", "/static/service.css"])
def test_every_answer_carries_the_security_headers(app: OpenAPI, path: str) -> None:
    with app.test_client().get(path) as answer:
        headers = answer.headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/docs", "/nothing", "/sms/invoke-bulk-sms", "/v1/messages"])
def test_what_a_caller_wrote_is_never_html(app: OpenAPI, path: str) -> None:
    query = {"phone": HOSTILE, "to": HOSTILE, "q": HOSTILE, "cursor": HOSTILE}
    answer = app.test_client().get(path, query_string=query, headers=KEY)
    assert answer.mimetype == "application/json" or HOSTILE not in answer.text


def test_a_body_too_large_for_the_api_is_413(app: OpenAPI) -> None:
    @app.post("/large", doc_ui=False)
    def large() -> str:
        return str(len(flask.request.get_data()))

    answer = app.test_client().post("/large", data=b"a" * 3_000_000)
    assert answer.status_code == 413
    assert answer.json is not None
    assert answer.json["code"] == "request_entity_too_large"


def test_the_wait_that_the_provider_asks_for_is_passed_on(make_app: MakeApp) -> None:
    app = make_app()

    @app.get("/throttled", doc_ui=False)
    def throttled() -> str:
        raise ProviderThrottled(reason="throttled", retry_after=7.2)

    answer = app.test_client().get("/throttled")
    assert (answer.status_code, answer.headers["Retry-After"]) == (502, "8")


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_send_whose_acceptance_nobody_can_tell_is_no_invitation_to_try_again(
    make_app: MakeApp, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is cut at COMMIT, and the database stays away."""
    monkeypatch.setattr(commit_tokens, "TIMEOUT_SECONDS", 0.3)
    with PostgresqlProxy(database_url) as proxy:
        # The first commit is that of the send.
        app = make_app(database_url=proxy.url, sends_per_minute=0)
        proxy.cut_at_commit = AFTER
        proxy.on_cut = lambda: setattr(proxy, "is_away", True)
        body = {"to": ["+254711000001"], "text": "Hello"}
        answer = app.test_client().post("/v1/messages", json=body, headers=KEY)
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"]["code"] == "acceptance_unknown"
    assert "may have been accepted; repeat only with the same Idempotency-Key" in answer.text
    assert "Retry-After" not in answer.headers


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_commit_that_is_lost_while_permits_are_taken_is_an_invitation_to_try_again(
    make_app: MakeApp, database_url: str
) -> None:
    """Of the send nothing has begun."""
    with PostgresqlProxy(database_url) as proxy:
        client = make_app(database_url=proxy.url).test_client()
        proxy.cut_at_commit = AFTER
        body = {"to": ["+254711000001"], "text": "Hello"}
        lost = client.post("/v1/messages", json=body, headers=KEY)
        proxy.cut_at_commit = NEVER
        assert (lost.status_code, lost.headers["Retry-After"], proxy.cuts) == (503, "10", 1)
        assert lost.json is not None
        assert lost.json["error"]["code"] == "storage_unavailable"
        assert client.post("/v1/messages", json=body, headers=KEY).status_code == 202
        found = client.get("/v1/messages", headers=KEY).json
    assert found is not None
    assert len(found["items"]) == 1


def test_a_lost_answer_of_at_that_asked_for_patience_is_no_invitation_to_try_again(make_app: MakeApp) -> None:
    app = make_app()

    @app.get("/lost", doc_ui=False)
    def lost() -> str:
        raise OutcomeUnknown(reason="http_503", http_status=503, retry_after=7)

    answer = app.test_client().get("/lost")
    assert answer.status_code == 504
    assert "Retry-After" not in answer.headers


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_of_an_outage_the_web_process_writes_a_line_at_its_beginning_and_one_at_its_end(
    make_app: MakeApp, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "QUIET_SECONDS", 0.0)
    with PostgresqlProxy(database_url) as proxy:
        caller = Caller(make_app(database_url=proxy.url))
        assert caller.get("/v1/messages").status_code == 200
        proxy.is_away = True
        assert {caller.get("/v1/messages").status_code for _ in range(4)} == {503}
        assert caller.get("/readyz").status_code == 503
        proxy.is_away = False
        assert caller.get("/v1/messages").status_code == 200
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["message"] for one in told] == [
        "the database cannot be used: an outage begins",
        "the database can be used again: the outage is over",
    ]
    assert told[1]["failures"] >= 5
