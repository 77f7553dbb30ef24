"""Every route of the JSON API against every scope: allowed or refused as this table says."""

from __future__ import annotations

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.access import keys
from messaging.storage.database import Database
from tests.routes.test_guards import TRIGGER, calls, example_path
from tests.support.fake_provider import FakeProvider
from tests.support.web import Caller

READ = "read"
SEND = "send"
ADMIN = "admin"
# All other routes under /v1 only read.
NEEDED = {
    ("POST", "/v1/messages"): SEND,
    ("POST", "/v1/messages/<int:id>/close"): ADMIN,
    ("POST", "/v1/messages/<int:id>/resend"): ADMIN,
    ("POST", "/v1/batches"): SEND,
    ("POST", "/v1/batches/<int:id>/pause"): SEND,
    ("POST", "/v1/batches/<int:id>/resume"): SEND,
    ("POST", "/v1/batches/<int:id>/cancel"): SEND,
    ("POST", "/v1/quote"): SEND,
    ("POST", "/v1/conversations/<phone>/messages"): SEND,
    ("POST", "/v1/conversations/<phone>/read"): SEND,
    ("POST", "/v1/inbound/<int:id>/release"): ADMIN,
    ("POST", "/v1/held/<id>/release"): ADMIN,
    ("POST", "/v1/held/<id>/cancel"): ADMIN,
    ("PUT", "/v1/consents/<phone>"): ADMIN,
    ("DELETE", "/v1/consents/<phone>"): SEND,
    ("PUT", "/v1/opt-outs/<phone>"): SEND,
    ("DELETE", "/v1/opt-outs/<phone>"): ADMIN,
    ("POST", "/v1/callbacks/<int:id>/replay"): ADMIN,
    ("POST", "/v1/forwarding/<id>/resend"): ADMIN,
    ("POST", "/v1/forwarding/resume"): ADMIN,
    ("POST", "/v1/sending/resume"): ADMIN,
    ("GET", "/v1/actions"): ADMIN,
}
OPEN = {("GET", "/v1/openapi.json")}


@pytest.mark.parametrize("scope", keys.SCOPES)
def test_a_key_opens_what_its_scope_allows_and_nothing_else(
    app: OpenAPI, database: Database, scope: str
) -> None:
    key, _ = keys.create(database, f"only-{scope}", [scope])
    client = app.test_client()
    asked = [(method, rule) for method, rule in calls(app) if rule.rule.startswith("/v1/")]
    asked = [(method, rule) for method, rule in asked if (method, rule.rule) not in OPEN]
    assert set(NEEDED) <= {(method, rule.rule) for method, rule in asked}
    for method, rule in asked:
        answer = client.open(example_path(rule), method=method, headers={"Authorization": f"Bearer {key}"})
        is_refused = answer.status_code == 403 and answer.json["error"]["code"] == "missing_scope"
        needed = NEEDED.get((method, rule.rule), READ)
        assert is_refused is (scope != needed), (method, rule.rule, answer.text)


@pytest.mark.parametrize("scope", keys.SCOPES)
def test_triggers_and_metrics_need_their_scope(
    app: OpenAPI, database: Database, provider: FakeProvider, scope: str
) -> None:
    key, _ = keys.create(database, f"only-{scope}", [scope])
    client, header = app.test_client(), {"Authorization": f"Bearer {key}"}
    assert client.get("/metrics", headers=header).status_code == (200 if scope == "metrics" else 403)
    assert client.get(TRIGGER, headers=header).status_code == (200 if scope == "send" else 403)
    assert len(provider.posts) == (1 if scope == "send" else 0)


def test_a_send_names_the_key_that_asked_for_it(
    app: OpenAPI, caller: Caller, database: Database, provider: FakeProvider
) -> None:
    key, _ = keys.create(database, "billing", ["send"])
    client, header = app.test_client(), {"Authorization": f"Bearer {key}"}
    body = {"to": "+254711000002", "text": "hello"}
    made = client.post("/v1/messages", json=body, headers=header).json
    assert client.get(TRIGGER, headers=header).status_code == 200
    caller.post("/v1/messages", body)
    assert made is not None
    assert caller.get(f"/v1/batches/{made['batch_id']}").json["created_by"] == "key:billing"  # type: ignore[index]
    assert [one["created_by"] for one in caller.messages()] == [
        "key:environment",
        "key:billing",
        "key:billing",
    ]
    assert len(caller.messages(created_by="key:billing")) == 2
    assert caller.messages(created_by="key:nobody") == []


def test_what_a_key_changed_is_listed_with_before_and_after(
    app: OpenAPI, caller: Caller, database: Database
) -> None:
    batch_id = caller.post("/v1/messages", {"to": "+254711000002", "text": "hello"}).json["batch_id"]  # type: ignore[index]
    key, _ = keys.create(database, "billing", ["send"])
    client, header = app.test_client(), {"Authorization": f"Bearer {key}"}
    client.post(f"/v1/batches/{batch_id}/pause", headers=header)
    client.put("/v1/opt-outs/+254711000002", headers=header)
    client.get("/v1/messages")
    stop, pause = caller.get("/v1/actions", actor="key:billing").json["items"]  # type: ignore[index]
    assert (pause["action"], pause["subject"]) == ("batch.pause", f"batch:{batch_id}")
    assert (pause["before"], pause["after"]["status"]) == ({"status": "sending", "reason": None}, "paused")
    assert (stop["action"], stop["subject"], stop["before"]) == (
        "opt_out.add",
        "phone:+254711000002",
        {"blocks": []},
    )
    assert pause["address"] == "127.0.0.1"
    assert [one["id"] for one in caller.get("/v1/actions", subject=f"batch:{batch_id}").json["items"]] == [  # type: ignore[index]
        pause["id"]
    ]


def test_nobodys_action_is_the_next_callers(app: OpenAPI, caller: Caller, database: Database) -> None:
    """Threads serve many requests: who acted in the one before must not act in the next."""
    caller.post("/v1/messages", {"to": "+254711000002", "text": "hello"})
    caller.callback("/sms/opt-out", {"phoneNumber": "+254711000003"})
    assert caller.get("/v1/actions").json["items"] == []  # type: ignore[index]
