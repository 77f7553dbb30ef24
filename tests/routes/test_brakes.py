"""Who lets go what a brake holds, at every door; and a file that was sent before."""

from __future__ import annotations

from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.access import keys
from messaging.batches.importer import import_next
from messaging.storage import tables
from messaging.storage.database import Database
from tests.messaging.costs.test_brakes import count_day
from tests.routes.conftest import MakeApp
from tests.routes.dashboard.test_access_pages import FIRST, PASSWORD, Visitor, add
from tests.support import delivery
from tests.support.fake_provider import FakeProvider
from tests.support.web import Caller

DOORS = ("/v1/batches/{}/resume", "/v1/held/batch:{}/release")
PAGES = ("/sends/{}/resume", "/held/batch:{}/release")
TWO = {"to": ["+254711000001", "+254711000002"], "text": "Hello"}


@pytest.fixture
def app(make_app: MakeApp) -> OpenAPI:
    return make_app(approval_above=1, dashboard_password=FIRST, secret_key="a-key-that-signs-cookies")


def header(database: Database, name: str, *scopes: str) -> dict[str, str]:
    key, _ = keys.create(database, name, scopes)
    return {"Authorization": f"Bearer {key}"}


def send(app: OpenAPI, headers: dict[str, str]) -> int:
    answer: Any = app.test_client().post("/v1/messages", json=TWO, headers=headers)
    assert (answer.status_code, answer.json["paused"]) == (202, "needs_approval")
    return int(answer.json["batch_id"])


def status_of(database: Database, batch_id: int) -> str:
    return str(delivery.only(database, tables.batches, tables.batches.c.id == batch_id).status)


@pytest.mark.parametrize("door", DOORS)
def test_a_key_approves_what_another_sent_and_only_with_the_scope(
    app: OpenAPI, database: Database, door: str
) -> None:
    author = header(database, "author", "send", "admin")
    batch_id = send(app, author)
    client, path = app.test_client(), door.format(batch_id)
    for headers in (author, header(database, "sender", "send"), header(database, "reader", "read")):
        assert client.post(path, headers=headers).status_code == 403
        assert status_of(database, batch_id) == "paused"
    told: Any = client.post(path, headers=author).json
    assert told["error"]["code"] == "needs_approval"
    assert client.post(path, headers=header(database, "boss", "send", "admin")).status_code == 200
    assert status_of(database, batch_id) == "sending"


@pytest.mark.parametrize("door", DOORS)
def test_the_keys_of_the_environment_are_one_author(
    app: OpenAPI, caller: Caller, database: Database, door: str
) -> None:
    batch_id = int(caller.post("/v1/messages", TWO).json["batch_id"])  # type: ignore[index]
    second = {"Authorization": "Bearer second-key"}
    refused = app.test_client().post(door.format(batch_id), headers=second)
    assert (refused.status_code, status_of(database, batch_id)) == (403, "paused")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("role", "allowed"), [("viewer", False), ("sender", False), ("approver", True), ("admin", True)]
)
def test_an_operator_approves_by_role(
    app: OpenAPI, caller: Caller, database: Database, page: str, role: str, allowed: bool
) -> None:
    batch_id = int(caller.post("/v1/messages", TWO).json["batch_id"])  # type: ignore[index]
    add(database, "ann", role)
    visitor = Visitor(app)
    visitor.log_in("ann", PASSWORD)
    answer = visitor.post("/settings", page.format(batch_id))
    assert answer.status_code == (303 if allowed else 403)
    assert status_of(database, batch_id) == ("sending" if allowed else "paused")


@pytest.mark.parametrize("page", PAGES)
def test_an_operator_does_not_approve_an_own_send_and_is_told_so(
    app: OpenAPI, database: Database, page: str
) -> None:
    for name in ("ann", "bob"):
        add(database, name, "approver")
    ann, bob = Visitor(app), Visitor(app)
    ann.log_in("ann", PASSWORD)
    bob.log_in("bob", PASSWORD)
    form = {"numbers": "+254711000001\n+254711000002", "text": "Hello"}
    checked = ann.post("/sends/new", "/sends/check", **form).text
    assert "It will wait until an approver who is not you releases it: 2 texts, above 1" in checked
    ann.post("/sends/new", **form)
    import_next(database, app.extensions["sms"].settings, lambda: False)
    assert "Another person has to approve it" in ann.client.get("/sends/1").text
    held = ann.client.get("/held").text
    assert "Release batch:1" not in held
    assert "Another person has to approve it" in held
    assert "Release batch:1" in bob.client.get("/held").text
    assert ann.post("/sends", page.format(1)).status_code == 403
    assert status_of(database, 1) == "paused"
    shown = bob.client.get("/sends").text
    assert "Approve" in shown
    assert "above what one person may send alone: 2 texts, above 1" in shown
    assert bob.post("/sends", page.format(1)).status_code == 303
    assert status_of(database, 1) == "sending"


def test_offline_without_keys_a_call_has_no_name_and_releases_nothing(
    make_app: MakeApp, database: Database
) -> None:
    offline = make_app(at_username=None, at_api_key=None, api_keys=(), webhook_tokens=(), approval_above=1)
    client = offline.test_client()
    batch_id = client.post("/v1/messages", json=TWO).json["batch_id"]  # type: ignore[index]
    for door in DOORS:
        assert client.post(door.format(batch_id)).status_code == 403
    visitor = Visitor(offline)
    assert visitor.post("/sends", f"/sends/{batch_id}/resume").status_code == 303
    assert status_of(database, batch_id) == "sending"


def test_a_trigger_that_needs_approval_sends_nothing(caller: Caller, provider: FakeProvider) -> None:
    answer = caller.get("/sms/invoke-bulk-sms", phone="254711000001,254711000002", message="Hello")
    assert (answer.status_code, answer.json["code"], provider.posts) == (403, "needs_approval", [])  # type: ignore[index]


def test_a_trigger_with_a_key_over_its_limit_is_told_so(
    app: OpenAPI, database: Database, provider: FakeProvider
) -> None:
    delivery.know_price(database)
    key, _ = keys.create(database, "billing", ["send"], daily_limit="KES 0.80")
    path = f"/sms/invoke-bulk-sms?phone=254711000001&message=Hello&api_key={key}"
    client = app.test_client()
    assert client.get(path).status_code == 200
    refused: Any = client.get(path)
    assert (refused.status_code, refused.json["code"], len(provider.posts)) == (403, "daily_limit", 1)


def test_an_unusual_send_is_warned_of_on_the_page_also_where_no_factor_is_set(
    make_app: MakeApp, database: Database
) -> None:
    count_day(database, 1, 2)
    visitor = Visitor(make_app(dashboard_password=FIRST, secret_key="a-key-that-signs-cookies"))
    visitor.log_in("admin", FIRST)
    numbers = "\n".join(delivery.phones(81))
    shown = visitor.post("/sends/new", "/sends/check", numbers=numbers, text="Hello").text
    assert "81 texts are 40 times your usual day (2). Is that meant?" in shown
    few = "\n".join(delivery.phones(80))
    assert "usual day" not in visitor.post("/sends/new", "/sends/check", numbers=few, text="Hello").text
