"""Every door of the API reads numbers by the same rule and takes the same marks off them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.batches.importer import import_next
from messaging.consent.csv_import import import_opt_outs
from messaging.storage.database import Database
from tests.routes.api.test_uploads import upload
from tests.support.web import API_KEY, Caller
from utils.settings import Settings

ALICE = "+254711000001"
STRANGERS = ["622000001", "685000001", "271234567"]
PASTED = [
    "\u202a+254\u00a0711 000\u2011001\u202c",
    '="+254711000001"',
    "'+254711000001",
    "254711000001\t",
    "+254711\u00ad000\ufe0f001",
]


def put_opt_out(app: OpenAPI, phone: str) -> Any:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    return app.test_client().put(f"/v1/opt-outs/{phone}", json={}, headers=headers)


@pytest.mark.parametrize("typed", STRANGERS)
def test_a_local_number_goes_nowhere_by_any_door(
    app: OpenAPI, caller: Caller, database: Database, settings: Settings, typed: str
) -> None:
    refused = caller.post("/v1/messages", {"to": typed, "text": "Hello"})
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "invalid_phone")
    assert "DEFAULT_REGION" in refused.json["error"]["message"]
    assert put_opt_out(app, typed).status_code == 400
    rows = f"phone\n{typed}\n"
    assert caller.post("/v1/quote", {"to": typed, "text": "Hello"}).json["recipients"] == 0
    assert upload(app, rows, "/v1/quote", text="Hello").json["recipients"] == 0  # type: ignore[index]
    done = import_opt_outs(database, io.BytesIO(rows.encode()), None)
    assert (done.added, done.refused_count) == (0, 1)
    upload(app, rows, text="Hello")
    assert import_next(database, settings, lambda: False)
    assert caller.messages() == []


@pytest.mark.parametrize("pasted", PASTED, ids=ascii)
def test_the_marks_of_other_programs_are_taken_off_at_every_door(
    app: OpenAPI, caller: Caller, database: Database, settings: Settings, pasted: str
) -> None:
    sent = caller.post("/v1/messages", {"to": pasted, "text": "Hello"})
    assert sent.json["messages"][0]["to"] == ALICE
    rows = f"phone,name\n{pasted},Amina\n"
    for quoted in (
        caller.post("/v1/quote", {"to": pasted, "text": "Hello"}),
        upload(app, rows, "/v1/quote", text="Hello"),
    ):
        assert quoted.json["recipients"] == 1  # type: ignore[index]
    upload(app, rows, text="Hello")
    assert import_next(database, settings, lambda: False)
    assert [one["to"] for one in caller.messages()] == [ALICE, ALICE]
    assert import_opt_outs(database, io.BytesIO(rows.encode()), None).added == 1


def test_a_raw_plus_in_a_query_string_is_a_plus(app: OpenAPI, caller: Caller) -> None:
    caller.post("/v1/messages", {"to": "+622000001", "text": "Hello"})
    found = app.test_client().get(
        "/v1/messages?to=+622000001", headers={"Authorization": f"Bearer {API_KEY}"}
    )
    assert [one["to"] for one in found.json["items"]] == ["+622000001"]  # type: ignore[index]
