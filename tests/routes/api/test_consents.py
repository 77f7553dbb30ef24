from __future__ import annotations

from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI
from werkzeug.test import TestResponse

from tests.support.web import API_KEY

ALICE = "+254711000001"
FORM = {"purpose": "offers", "wording": "Send me offers", "wording_version": "2", "source": "form"}


@pytest.fixture
def call(app: OpenAPI) -> Any:
    client = app.test_client()

    def send(method: str, path: str, body: Any = None) -> TestResponse:
        return client.open(
            f"/v1{path}", method=method, json=body, headers={"Authorization": f"Bearer {API_KEY}"}
        )

    return send


def test_a_consent_is_put_shown_and_withdrawn(call: Any) -> None:
    put, again = (call("PUT", f"/consents/{ALICE}", FORM) for _ in range(2))
    assert (put.status_code, put.json["added"], again.json["added"]) == (200, True, False)
    (entry,) = call("GET", f"/consents?phone={ALICE}").json["items"]
    assert {name: entry[name] for name in FORM} == FORM
    assert (entry["in_force"], entry["sender_id"], entry["evidence"]) == (True, None, None)

    withdrawn = call("DELETE", f"/consents/{ALICE}?source=phone+call")

    assert (withdrawn.status_code, withdrawn.json["withdrawn"], withdrawn.json["consents"]) == (200, 1, [])
    assert [one["action"] for one in call("GET", "/consents").json["items"]] == ["withdraw", "give"]
    assert call("GET", "/consents?in_force=true").json["items"] == []
    missing = call("DELETE", f"/consents/{ALICE}")
    assert (missing.status_code, missing.json["error"]["code"]) == (404, "not_found")


def test_a_put_needs_no_body(call: Any) -> None:
    put = call("PUT", f"/consents/{ALICE}")
    assert (put.status_code, put.json["consents"][0]["source"]) == (200, "api")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/consents/12", {}, "phone"),
        (f"/consents/{ALICE}", {"wording": "x" * 2001}, "wording"),
        (f"/consents/{ALICE}", {"source": ""}, "source"),
        (f"/consents/{ALICE}", {"sender_id": "x" * 40}, "sender_id"),
        (f"/consents/{ALICE}", {"word": "yes"}, "word"),
    ],
)
def test_bad_input_names_its_field(call: Any, path: str, body: dict[str, str], field: str) -> None:
    answer = call("PUT", path, body)
    assert (answer.status_code, answer.json["error"]["field"]) == (400, field)
