from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask_openapi.openapi import OpenAPI
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from messaging.access.key_throttle import FREE_TRIES
from messaging.storage.database import Database
from tests.routes.conftest import MakeApp
from tests.support.fake_provider import FakeProvider
from tests.support.web import API_KEY, TOKEN, Caller

NOTHING_DONE = "Nothing was done"
OPEN = {
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/password/<token>"),
    ("GET", "/docs"),
    ("GET", "/docs/swagger/<path:filename>"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/sms/"),
    ("GET", "/static/<path:filename>"),
    ("GET", "/v1/openapi.json"),
}
ALICE = "254711000001"
TRIGGER = f"/sms/invoke-bulk-sms?phone={ALICE}"


def calls(app: OpenAPI) -> Iterator[tuple[str, Rule]]:
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule


def example_path(rule: Rule) -> str:
    values = dict.fromkeys(rule.arguments, 1)
    built = rule.build(values)
    assert built is not None
    return built[1]


def test_every_route_asks_for_a_credential_or_is_listed_as_open(app: OpenAPI) -> None:
    client = app.test_client()
    passed = {
        (method, rule.rule)
        for method, rule in calls(app)
        if not asks_for_credential(client.open(example_path(rule), method=method))
    }
    assert passed == OPEN


def asks_for_credential(answer: TestResponse) -> bool:
    """A page leads to the login, and a form of nobody's does nothing."""
    is_led = answer.status_code == 303 and answer.headers["Location"].startswith("/login?next=")
    return (
        answer.status_code in (401, 403)
        or is_led
        or (answer.status_code, NOTHING_DONE in answer.text) == (400, True)
    )


def test_without_a_key_nothing_is_sent(app: OpenAPI, caller: Caller, provider: FakeProvider) -> None:
    answer = app.test_client().get(TRIGGER)
    assert answer.status_code == 401
    assert answer.json is not None
    assert answer.json["code"] == "unauthorised"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert provider.posts == []
    assert caller.messages() == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        API_KEY,
        f"Basic {API_KEY}",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {API_KEY}x",
        f"Bearer {API_KEY[:-1]}",
        f"Bearer {TOKEN}",
        "Bearer \xff\xfe",
    ],
)
def test_a_wrong_key_opens_nothing(app: OpenAPI, header: str) -> None:
    client = app.test_client()
    for path in ("/v1/messages", "/metrics", TRIGGER):
        assert client.get(path, headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize("key", [API_KEY, "second-key"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_every_key_in_the_list_is_valid(app: OpenAPI, key: str, scheme: str) -> None:
    answer = app.test_client().get("/v1/messages", headers={"Authorization": f"{scheme} {key}"})
    assert answer.status_code == 200


def test_a_key_in_the_query_opens_the_triggers_and_nothing_else(app: OpenAPI, provider: FakeProvider) -> None:
    client = app.test_client()
    assert client.get(f"{TRIGGER}&api_key={API_KEY}").status_code == 200
    assert client.get(f"{TRIGGER}&api_key=wrong").status_code == 401
    assert client.get(f"/v1/messages?api_key={API_KEY}").status_code == 401
    assert client.get(f"/metrics?api_key={API_KEY}").status_code == 401
    assert len(provider.posts) == 1


@pytest.mark.parametrize("path", ["/v1/messages", "/metrics", TRIGGER, f"{TRIGGER}&api_key=wrong"])
def test_an_address_that_tries_many_keys_is_told_to_wait_and_stops_nobody(
    make_app: MakeApp, path: str, provider: FakeProvider
) -> None:
    guessed, other = make_app().test_client(), make_app()
    headers = {} if "api_key" in path else {"Authorization": "Bearer wrong"}
    statuses = [guessed.get(path, headers=headers).status_code for _ in range(FREE_TRIES + 1)]
    assert (statuses[0], statuses[-1]) == (401, 429)
    refusal = other.test_client().get("/v1/messages", headers={"Authorization": "Bearer wrong too"})
    assert refusal.status_code == 429
    assert refusal.json is not None
    assert refusal.json["error"]["code"] == "too_many_tries"
    assert 0 < int(refusal.headers["Retry-After"]) <= 60

    caller = Caller(other)
    assert caller.get("/v1/messages").status_code == 200
    assert caller.get(TRIGGER).status_code == 200
    assert caller.callback("/sms/opt-out", {"phoneNumber": f"+{ALICE}"}).status_code == 200
    assert len(provider.posts) == 1


def test_behind_a_trusted_proxy_each_caller_has_tries_of_their_own(make_app: MakeApp) -> None:
    behind = make_app(trusted_proxies=("127.0.0.1",)).test_client()
    wrong = {"Authorization": "Bearer wrong"}

    def tried(address: str) -> int:
        return behind.get("/v1/messages", headers=wrong | {"X-Forwarded-For": address}).status_code

    statuses = [tried("203.0.113.7") for _ in range(FREE_TRIES + 1)]
    assert statuses[-1] == 429
    assert tried("203.0.113.8") == 401


def test_a_call_without_a_key_is_no_try(app: OpenAPI) -> None:
    client = app.test_client()
    assert {client.get("/v1/messages").status_code for _ in range(FREE_TRIES + 5)} == {401}


def test_wrong_keys_are_counted(caller: Caller) -> None:
    for _ in range(3):
        caller.get("/v1/messages", headers={"Authorization": "Bearer wrong"})
    assert "sms_refused_keys_total 3.0" in caller.get("/metrics").text


@pytest.mark.parametrize("token", ["", "wrong", f"{TOKEN}x", API_KEY, "ÿ", "%00"])
@pytest.mark.parametrize("route", ["twoway", "delivery-reports", "opt-out", "subscription"])
def test_a_callback_with_a_wrong_token_changes_nothing(
    app: OpenAPI, caller: Caller, route: str, token: str
) -> None:
    body = {"from": "+254711000001", "to": "20880", "text": "STOP", "id": "x", "phoneNumber": "+254711000001"}
    answer = app.test_client().post(f"/sms/{route}", query_string={"token": token}, data=body)
    assert answer.status_code == 403
    assert caller.callbacks() == []


def test_refused_callbacks_are_counted(caller: Caller) -> None:
    for _ in range(3):
        caller.callback("/sms/twoway", {}, token=None)
    assert "sms_refused_callbacks_total 3.0" in caller.get("/metrics").text


@pytest.mark.parametrize("token", [TOKEN, "second-token"])
def test_every_token_in_the_list_is_valid(caller: Caller, token: str) -> None:
    assert caller.callback("/sms/opt-out", {"phoneNumber": "+254711000001"}, token=token).status_code == 200


def test_offline_without_keys_everything_is_open(make_app: MakeApp, provider: FakeProvider) -> None:
    offline = {"at_username": None, "at_api_key": None, "api_keys": (), "webhook_tokens": ()}
    client = make_app(**offline).test_client()
    for path in ("/v1/messages", "/metrics", TRIGGER):
        assert client.get(path).status_code == 200
    assert client.post("/sms/opt-out", data={"phoneNumber": "+254711000001"}).status_code == 200


def test_offline_with_keys_set_they_are_asked_for(make_app: MakeApp) -> None:
    client = make_app(at_username=None, at_api_key=None).test_client()
    assert client.get("/v1/messages").status_code == 401
    assert client.post("/sms/opt-out").status_code == 403


def test_with_an_account_and_no_keys_nothing_is_open(make_app: MakeApp, database: Database) -> None:
    client = make_app(api_keys=(), webhook_tokens=()).test_client()
    assert client.get("/v1/messages").status_code == 401
    assert client.post("/sms/opt-out").status_code == 403
