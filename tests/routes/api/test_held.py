from __future__ import annotations

import pytest

from messaging.messages import held
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.web import Caller


@pytest.fixture
def message_id(database: Database) -> int:
    (message_id,) = delivery.queue(database, delivery.phone(1))
    delivery.in_write(
        database, lambda connection, now: held.hold(connection, [message_id], "database_restored", now)
    )
    return message_id


def test_a_held_message_is_listed_and_released_once(caller: Caller, message_id: int) -> None:
    name = f"message:{message_id}"
    (item,) = caller.get("/v1/held").json["items"]  # type: ignore[index]
    assert (item["id"], item["kind"], item["reason"]) == (name, "message", "database_restored")
    assert caller.messages(status="held")[0]["id"] == message_id

    answer = caller.post(f"/v1/held/{name}/release")
    assert (answer.status_code, answer.json) == (200, {"id": name, "status": "queued"})
    again = caller.post(f"/v1/held/{name}/release")
    assert (again.status_code, again.json["error"]["code"]) == (409, "not_held")  # type: ignore[index]
    assert [(step["status"], step["source"]) for step in caller.message(message_id)["history"]] == [
        ("queued", "api"),
        ("held", "worker"),
        ("queued", "operator"),
    ]


def test_a_held_message_is_cancelled(caller: Caller, message_id: int) -> None:
    answer = caller.post(f"/v1/held/message:{message_id}/cancel")
    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")  # type: ignore[index]
    assert caller.get("/v1/held").json == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("path", "query", "status", "code", "field"),
    [
        ("/v1/held", {"kind": "letter"}, 400, "invalid_request", "kind"),
        ("/v1/held", {"cursor": "x"}, 400, "invalid_cursor", "cursor"),
    ],
)
def test_a_bad_query_is_refused_with_its_field(
    caller: Caller, path: str, query: dict[str, str], status: int, code: str, field: str
) -> None:
    answer = caller.get(path, **query)
    error = answer.json["error"]  # type: ignore[index]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field)


@pytest.mark.parametrize(
    ("name", "status", "code"), [("letter:1", 400, "invalid_id"), ("message:404", 404, "not_found")]
)
@pytest.mark.parametrize("verb", ["release", "cancel"])
def test_a_name_that_leads_nowhere_is_refused(
    caller: Caller, name: str, verb: str, status: int, code: str
) -> None:
    answer = caller.post(f"/v1/held/{name}/{verb}")
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)  # type: ignore[index]
