"""SENDS_PER_MINUTE at every door that asks for texts, and nowhere else."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from flask_openapi.openapi import OpenAPI

from messaging.access import keys, send_throttle
from messaging.storage import tables
from messaging.storage.database import Database
from tests.routes.conftest import MakeApp
from tests.routes.dashboard.test_access_pages import FIRST, Visitor
from tests.routes.test_open_mode import OPEN
from tests.support.fake_provider import FakeProvider
from tests.support.web import API_KEY, TOKEN, Caller

ALICE = "+254711000001"
KEY = {"Authorization": f"Bearer {API_KEY}"}
SEND = {"to": ALICE, "text": "hello"}
BULK, TWOWAY = (f"/sms/invoke-{kind}-sms?phone=254711000001" for kind in ("bulk", "twoway"))
PER_MINUTE = 3


@pytest.fixture(autouse=True)
def _one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """No minute ends in mid test."""
    monkeypatch.setattr(send_throttle, "steady", lambda *_: datetime(2027, 1, 31, 12, tzinfo=UTC))


@pytest.fixture
def app(make_app: MakeApp) -> OpenAPI:
    return make_app(
        sends_per_minute=PER_MINUTE,
        dashboard_password=FIRST,
        secret_key="a-key-that-signs-cookies",
        trusted_proxies=("127.0.0.1",),
    )


def come_from(address: str) -> dict[str, str]:
    """As the proxy says it that TRUSTED_PROXIES names."""
    return {"X-Forwarded-For": address}


def use_up(caller: Caller) -> None:
    assert [caller.post("/v1/messages", SEND).status_code for _ in range(PER_MINUTE)] == [202] * PER_MINUTE


def upload(caller: Caller, key: str = API_KEY) -> Any:
    form = {"text": "hello", "file": (io.BytesIO(f"phone\n{ALICE}\n".encode()), "people.csv")}
    client = caller._app.test_client()
    return client.post("/v1/batches", data=form, headers={"Authorization": f"Bearer {key}"})


def test_over_http_the_limit_is_told_with_the_time_to_wait_and_callbacks_pass(
    served: str, provider: FakeProvider
) -> None:
    def send() -> requests.Response:
        return requests.post(f"{served}/v1/messages", json=SEND, headers=KEY, timeout=10)

    assert [send().status_code for _ in range(PER_MINUTE)] == [202] * PER_MINUTE
    refused = send()
    assert refused.status_code == 429
    assert set(refused.json()) == {"error"}
    assert set(refused.json()["error"]) == {"code", "message"}
    assert refused.json()["error"]["code"] == "rate_limited"
    assert 0 < int(refused.headers["Retry-After"]) <= 60

    trigger = requests.get(f"{served}{BULK}", headers=KEY, timeout=10)
    assert (trigger.status_code, set(trigger.json())) == (429, {"error", "code"})
    assert trigger.json()["code"] == "rate_limited"
    assert 0 < int(trigger.headers["Retry-After"]) <= 60
    assert provider.posts == []

    opt_out = {"phoneNumber": ALICE}
    for _ in range(3 * PER_MINUTE):
        taken = requests.post(f"{served}/sms/opt-out?token={TOKEN}", data=opt_out, timeout=10)
        assert taken.status_code == 200


def test_every_door_of_the_api_asks(app: OpenAPI, caller: Caller) -> None:
    use_up(caller)
    refused = [
        caller.post("/v1/messages", SEND),
        upload(caller),
        caller.get(BULK),
        caller.get(TWOWAY),
        app.test_client().get(f"{BULK}&api_key={API_KEY}"),
        caller.post(f"/v1/conversations/{ALICE}/messages", {"text": "hello"}),
        caller.post("/v1/messages/1/resend"),
    ]
    assert [answer.status_code for answer in refused] == [429] * len(refused)
    assert len(caller.messages()) == PER_MINUTE


def test_what_asks_for_no_text_is_not_counted(caller: Caller) -> None:
    use_up(caller)
    for _ in range(2 * PER_MINUTE):
        assert caller.get("/v1/messages").status_code == 200
        assert caller.post("/v1/quote", {"to": [ALICE], "text": "hello"}).status_code == 200
        assert caller.get("/metrics").status_code == 200


def test_a_batch_is_one_call_and_so_is_one_that_is_refused_for_another_reason(caller: Caller) -> None:
    assert upload(caller).status_code == 202
    assert caller.post("/v1/messages", {"to": ALICE}).status_code == 400
    assert caller.get(BULK).status_code == 200
    assert caller.post("/v1/messages", SEND).status_code == 429


def test_a_wrong_key_takes_nothing_from_the_right_one(caller: Caller) -> None:
    for _ in range(PER_MINUTE):
        assert upload(caller, key="wrong").status_code == 401
    use_up(caller)


def test_each_key_has_its_own_and_those_of_the_environment_one_together(
    caller: Caller, database: Database
) -> None:
    use_up(caller)
    second = {"Authorization": "Bearer second-key"}
    assert caller.post("/v1/messages", SEND, second).status_code == 429
    made, _ = keys.create(database, "billing", ["send"])
    mine = {"Authorization": f"Bearer {made}"} | come_from("192.0.2.2")
    told = [caller.post("/v1/messages", SEND, mine).status_code for _ in range(PER_MINUTE + 1)]
    assert told == [202] * PER_MINUTE + [429]


def test_it_holds_over_two_web_processes(make_app: MakeApp, app: OpenAPI, caller: Caller) -> None:
    other = Caller(make_app(sends_per_minute=PER_MINUTE))
    # The keys of API_KEYS have one limit, the address another.
    told = [
        each.post("/v1/messages", SEND).status_code for _ in range(PER_MINUTE) for each in (caller, other)
    ]
    assert told == [202] * PER_MINUTE + [429] * PER_MINUTE


def test_an_operator_has_a_limit_too_and_is_told_on_a_page(app: OpenAPI, caller: Caller) -> None:
    visitor = Visitor(app)
    visitor.client.environ_base["REMOTE_ADDR"] = "192.0.2.2"
    visitor.log_in("admin", FIRST)
    answers = [
        visitor.post("/sends/new", numbers=ALICE, text=f"hello {number}") for number in range(PER_MINUTE + 1)
    ]
    assert [answer.status_code for answer in answers] == [303] * PER_MINUTE + [429]
    assert "wait" in answers[-1].text
    assert visitor.post("/sends/new", "/messages/1/resend").status_code == 429
    assert visitor.post("/sends/new", f"/conversations/{ALICE}/reply", text="hello").status_code == 429
    assert visitor.post("/sends/new", "/sends/check", numbers=ALICE, text="hello").status_code == 200
    use_up(caller)


def test_all_keys_and_operators_of_one_address_share_its_limit(
    app: OpenAPI, caller: Caller, database: Database
) -> None:
    use_up(caller)
    made, _ = keys.create(database, "billing", ["send"])
    mine = {"Authorization": f"Bearer {made}"}
    refused = caller.post("/v1/messages", SEND, mine)
    assert refused.status_code == 429
    assert "from this address" in refused.json["error"]["message"]  # type: ignore[index]
    visitor = Visitor(app)
    visitor.log_in("admin", FIRST)
    assert visitor.post("/sends/new", numbers=ALICE, text="hello").status_code == 429
    # What was refused here took nothing from the key: elsewhere it has all of its own.
    told = [
        caller.post("/v1/messages", SEND, mine | come_from("192.0.2.2")).status_code
        for _ in range(PER_MINUTE + 1)
    ]
    assert told == [202] * PER_MINUTE + [429]


def test_one_key_from_many_addresses_has_one_limit(caller: Caller) -> None:
    told = [
        caller.post("/v1/messages", SEND, come_from(f"192.0.2.{number}")).status_code
        for number in range(PER_MINUTE + 2)
    ]
    assert told == [202] * PER_MINUTE + [429] * 2


def test_of_ipv6_a_customers_network_is_one_address(caller: Caller, database: Database) -> None:
    """Each key has sends left: it is the network that has none."""
    told = []
    for number in range(PER_MINUTE + 1):
        made, _ = keys.create(database, f"key{number}", ["send"])
        headers = {"Authorization": f"Bearer {made}"} | come_from(f"2001:db8::{number + 1}")
        told.append(caller.post("/v1/messages", SEND, headers).status_code)
    assert told == [202] * PER_MINUTE + [429]


def test_a_wrong_key_takes_nothing_from_its_address(caller: Caller, database: Database) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    assert {caller.post("/v1/messages", SEND, wrong).status_code for _ in range(PER_MINUTE)} == {401}
    with database.read() as connection:
        assert connection.execute(tables.send_buckets.select()).all() == []
    use_up(caller)


def test_an_address_that_is_used_up_brings_callbacks_all_the_same(caller: Caller, database: Database) -> None:
    use_up(caller)
    for _ in range(2 * PER_MINUTE):
        assert caller.callback("/sms/opt-out", {"phoneNumber": ALICE}).status_code == 200


def test_offline_without_keys_nobody_is_counted(make_app: MakeApp, database: Database) -> None:
    caller = Caller(make_app(**OPEN, sends_per_minute=PER_MINUTE))
    told = {caller.post("/v1/messages", SEND).status_code for _ in range(3 * PER_MINUTE)}
    assert told == {202}
    with database.read() as connection:
        assert connection.execute(tables.send_buckets.select()).all() == []


def test_zero_turns_it_off(make_app: MakeApp) -> None:
    caller = Caller(make_app(sends_per_minute=0))
    assert {caller.post("/v1/messages", SEND).status_code for _ in range(20)} == {202}
