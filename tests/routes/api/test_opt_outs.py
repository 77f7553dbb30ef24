from __future__ import annotations

from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI
from werkzeug.test import TestResponse

from tests.support.web import API_KEY, Caller

ALICE, UGANDAN = "+254711000001", "+256772000001"


@pytest.fixture
def call(app: OpenAPI) -> Any:
    client = app.test_client()

    def send(method: str, path: str, body: Any = None) -> TestResponse:
        return client.open(
            f"/v1{path}", method=method, json=body, headers={"Authorization": f"Bearer {API_KEY}"}
        )

    return send


def test_an_opt_out_is_put_shown_and_lifted(call: Any) -> None:
    put = call("PUT", f"/opt-outs/{ALICE}", {"reason": "asked by phone"})
    again = call("PUT", f"/opt-outs/{ALICE}", {})
    assert (put.status_code, put.json["added"], again.json["added"]) == (200, True, False)
    (entry,) = call("GET", "/opt-outs").json["items"]
    assert (entry["source"], entry["scope"], entry["detail"]) == ("api", "all", "asked by phone")
    assert (entry["in_force"], entry["evidence"], entry["sender_id"]) == (True, None, None)

    lifted = call("DELETE", f"/opt-outs/{ALICE}?reason=came+back")

    assert (lifted.json["lifted"], lifted.json["blocks"], lifted.json["elsewhere"]) == (1, [], None)
    assert call("DELETE", f"/opt-outs/{ALICE}").status_code == 404
    assert [one["action"] for one in call("GET", "/opt-outs").json["items"]] == ["lift", "stop"]
    assert call("GET", "/opt-outs?in_force=true").json["items"] == []


def test_a_put_needs_no_body_but_one_that_is_no_json_is_refused(app: OpenAPI) -> None:
    client, headers = app.test_client(), {"Authorization": f"Bearer {API_KEY}"}
    path = f"/v1/opt-outs/{ALICE}"
    for body in ('{"sender_id": "Clinic"', "[]", "null", "sender_id=Clinic"):
        refused = client.put(path, data=body, headers=headers | {"Content-Type": "application/json"})
        assert (refused.status_code, refused.json["error"]["code"]) == (400, "invalid_request")
        assert "JSON" in refused.json["error"]["message"]
    assert "JSON object" in client.put(path, data="a=1", headers=headers).json["error"]["message"]
    assert client.get("/v1/opt-outs", headers=headers).json["items"] == []
    for more in ({}, {"Content-Type": "application/json"}):
        put = client.put(path, headers=headers | more)
        assert (put.status_code, put.json["blocks"][0]["scope"]) == (200, "all")


def test_a_lift_for_one_sender_does_not_say_that_nothing_stops_who_is_stopped_altogether(call: Any) -> None:
    call("PUT", f"/opt-outs/{ALICE}")
    error = call("DELETE", f"/opt-outs/{ALICE}?sender_id=Clinic").json["error"]
    assert (error["code"], error["field"]) == ("not_found", "sender_id")
    assert [one["scope"] for one in error["details"]["blocks"]] == ["all"]


def test_a_block_of_one_sender_is_lifted_by_itself(call: Any) -> None:
    call("PUT", f"/opt-outs/{ALICE}", {"sender_id": "Clinic"})
    both = call("PUT", f"/opt-outs/{ALICE}", {}).json["blocks"]
    assert [(one["scope"], one["sender_id"]) for one in both] == [("sender", "CLINIC"), ("all", None)]
    left = call("DELETE", f"/opt-outs/{ALICE}?sender_id=clinic").json["blocks"]
    assert [one["scope"] for one in left] == ["all"]
    assert [one["action"] for one in call("GET", "/opt-outs?sender_id=clinic").json["items"]] == [
        "lift",
        "stop",
    ]


@pytest.mark.parametrize(("phone", "dial"), [(ALICE, "*456*9#"), (UGANDAN, None)])
def test_an_entry_names_its_evidence_and_a_lift_what_the_recipient_can_do(
    caller: Caller, call: Any, phone: str, dial: str | None
) -> None:
    caller.callback("/sms/opt-out", {"phoneNumber": phone, "senderId": "20880"})
    (entry,) = call("GET", "/opt-outs?source=callback").json["items"]
    assert entry["evidence"]["callback_id"] == caller.callbacks()[0]["id"]
    assert len(entry["evidence"]["digest"]) == 32
    elsewhere = call("DELETE", f"/opt-outs/{phone}").json["elsewhere"]
    assert elsewhere["dial"] == dial
    assert "network" in elsewhere["advice"] or "Safaricom" in elsewhere["advice"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/opt-outs/nobody", {}),
        ("PUT", f"/opt-outs/{ALICE}", {"sender_id": "no such sender id at all"}),
        ("PUT", f"/opt-outs/{ALICE}", {"unknown": 1}),
        ("GET", "/opt-outs?phone=nobody", None),
        ("GET", "/opt-outs?source=rumour", None),
        ("GET", "/opt-outs?cursor=x", None),
    ],
)
def test_what_cannot_be_used_is_refused(call: Any, method: str, path: str, body: Any) -> None:
    assert call(method, path, body).status_code == 400


def test_the_ledger_is_read_in_pages(call: Any) -> None:
    for number in range(5):
        call("PUT", f"/opt-outs/+25471100000{number}", {})
    first = call("GET", "/opt-outs?limit=3").json
    rest = call("GET", f"/opt-outs?limit=3&cursor={first['next_cursor']}").json
    assert [len(first["items"]), len(rest["items"]), rest["next_cursor"]] == [3, 2, None]
