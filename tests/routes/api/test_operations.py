from __future__ import annotations

from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.messages import pause_names
from messaging.sending import pauses
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.web import API_KEY

HEADERS = {"Authorization": f"Bearer {API_KEY}"}


@pytest.fixture
def paused(database: Database) -> None:
    with database.write() as connection:
        for name in (pause_names.ACCOUNT, pause_names.sender_name("Clinic")):
            pauses.pause(connection, name, "invalid_sender_id", None, wall_clock(connection))


@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize(
    ("body", "resumed"),
    [
        ({}, 2),
        ({"json": {}}, 2),
        ({"json": {"sender_id": "clinic"}}, 1),
        ({"json": {"sender_id": "Shop"}}, 0),
    ],
)
def test_a_person_resumes_everything_or_one_sender(app: OpenAPI, body: dict[str, Any], resumed: int) -> None:
    answer = app.test_client().post("/v1/sending/resume", headers=HEADERS, **body)
    assert (answer.status_code, answer.json) == (200, {"resumed": resumed})


def test_a_sender_that_cannot_be_is_refused(app: OpenAPI) -> None:
    answer = app.test_client().post("/v1/sending/resume", headers=HEADERS, json={"sender_id": "a\0"})
    assert (answer.status_code, answer.json["error"]["field"]) == (400, "sender_id")
