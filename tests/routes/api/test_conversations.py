from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from messaging.storage import tables
from messaging.storage.database import Database
from tests.routes.conftest import MakeApp
from tests.support.web import API_KEY, Caller

ALICE, BOB = "+254711000001", "+254711000002"


@pytest.fixture
def call(app: OpenAPI) -> Iterator[Any]:
    client = app.test_client()

    def send(method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        known = {"Authorization": f"Bearer {API_KEY}"} | headers
        return client.open(f"/v1{path}", method=method, json=body, headers=known)

    return send


def hear(caller: Caller, number: int, sender: str = ALICE, text: str = "hello", to: str = "20880") -> None:
    fields = {"from": sender, "to": to, "text": text, "id": f"in-{number}", "date": "2017-05-03 06:04:45"}
    assert caller.callback("/sms/twoway", fields).status_code == 200


def pages_of(call: Any, path: str) -> list[dict[str, Any]]:
    """All items, fetched two at a time."""
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        found = call("GET", f"{path}?limit=2&cursor={cursor}").json
        items += found["items"]
        if found["next_cursor"] is None:
            return items
        cursor = found["next_cursor"]


def test_whoever_wrote_last_comes_first_with_what_is_unread(caller: Caller, call: Any) -> None:
    for number, sender in enumerate([ALICE, BOB, ALICE, "MTN"]):
        hear(caller, number, sender)
    shown = call("GET", "/conversations").json["items"]
    assert [(one["phone"], one["unread"]) for one in shown] == [(ALICE, 2), (BOB, 1)]
    assert shown[0]["latest"]["direction"] == "out"
    assert [one["phone"] for one in pages_of(call, "/conversations")] == [ALICE, BOB]


def test_texts_that_hold_a_stop_word_and_more_can_be_asked_for(caller: Caller, call: Any) -> None:
    for number, text in enumerate(["hello", "stop it now", "STOP"]):
        hear(caller, number, text=text)
    (found,) = call("GET", "/inbound?possible_opt_out=true").json["items"]
    assert (found["text"], found["meaning"], found["possible_opt_out"]) == ("stop it now", "message", True)
    assert (found["reply"], found["reply_tries"]) == ("possible_opt_out", 0)
    assert call("GET", "/inbound?reply=possible_opt_out").json["items"] == [found]
    lines = call("GET", f"/conversations/{ALICE}").json["items"]
    assert [one["possible_opt_out"] for one in lines if one["direction"] == "in"] == [False, True, False]


def test_reading_counts_down_and_only_those_with_unread_texts_can_be_asked_for(
    caller: Caller, call: Any
) -> None:
    for number in range(3):
        hear(caller, number)
    hear(caller, 3, BOB)
    first = pages_of(call, "/inbound")[-1]["id"]
    assert call("POST", f"/conversations/{ALICE}/read", {"up_to": first}).json == {"unread": 2}
    assert call("POST", f"/conversations/{ALICE}/read").json == {"unread": 0}
    assert call("POST", f"/conversations/{ALICE}/read", {"up_to": 0}).json == {"unread": 0}
    assert [one["phone"] for one in call("GET", "/conversations?unread=true").json["items"]] == [BOB]
    hear(caller, 4)
    assert call("GET", f"/conversations/{ALICE}").json["unread"] == 1


def test_both_directions_come_in_our_order_over_pages_whatever_date_at_gives(
    caller: Caller, database: Database, call: Any
) -> None:
    for number in range(5):
        hear(caller, number, text=f"in {number}")
    start = datetime(2026, 11, 24, 8, tzinfo=UTC)
    with database.write() as connection:
        for table, name, shift in (
            (tables.inbound_messages, "received_at", 0),
            (tables.messages, "created_at", 1),
        ):
            for row in connection.execute(select(table.c.id).order_by(table.c.id)).all():
                at = start + timedelta(seconds=2 * row.id + shift)
                connection.execute(table.update().where(table.c.id == row.id).values({name: at}))
        # Ids and times disagree where transactions overlap: nothing may be shown twice or left out.
        connection.execute(tables.messages.update().where(tables.messages.c.id == 3).values(created_at=start))
    shown = pages_of(call, f"/conversations/{ALICE}")
    assert len({(one["direction"], one["id"]) for one in shown}) == len(shown) == 10
    theirs = [one["text"] for one in shown if one["direction"] == "in"]
    assert theirs == [f"in {number}" for number in reversed(range(5))]
    assert [one["direction"] for one in shown[:4]] == ["out", "in", "out", "in"]


def test_a_person_answers_from_the_number_that_was_written_to_last(caller: Caller, call: Any) -> None:
    hear(caller, 1, to="20880")
    hear(caller, 2, to="40404")
    path = f"/conversations/{ALICE}/messages"
    first, again = (call("POST", path, {"text": "Hi"}, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, first.json["sender_id"]) == (202, "40404")
    assert (again.json, again.headers["Idempotent-Replay"]) == (first.json, "true")
    assert call("POST", path, {"text": "Other"}, **{"Idempotency-Key": "k"}).status_code == 422
    assert caller.message(first.json["id"])["origin"] == "chat"


@pytest.mark.parametrize(
    ("phone", "text", "status", "code"),
    [
        (ALICE, " ", 400, "empty_message"),
        (BOB, "Hi", 404, "not_found"),
        ("nobody", "Hi", 400, "invalid_phone"),
        (ALICE, "x" * 1601, 400, "text_too_long"),
        (ALICE, "half \ud83d", 400, "invalid_request"),
        (ALICE, "a\0b", 400, "invalid_input"),
    ],
)
def test_what_cannot_be_said_is_refused(
    caller: Caller, call: Any, phone: str, text: str, status: int, code: str
) -> None:
    hear(caller, 1)
    answer = call("POST", f"/conversations/{phone}/messages", {"text": text})
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


def test_who_opted_out_is_not_answered_by_a_person_either(caller: Caller, call: Any) -> None:
    hear(caller, 1, text="STOP")
    answer = call("POST", f"/conversations/{ALICE}/messages", {"text": "Please come back"})
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "opted_out")


def test_texts_are_found_by_sender_number_meaning_and_time(caller: Caller, call: Any) -> None:
    hear(caller, 1)
    hear(caller, 2, BOB, "STOP", to="40404")

    def found(query: str) -> list[str]:
        return [one["from"] for one in call("GET", f"/inbound?{query}").json["items"]]

    assert found("") == [BOB, ALICE]
    assert found("from=%2B254711000001") == [ALICE]
    assert found("from=254711000001") == [ALICE]
    assert found("to=40404") == [BOB]
    assert found("meaning=stop") == [BOB]
    assert found("since=2026-01-01&until=2999-01-01") == [BOB, ALICE]
    assert found("until=2020-01-01") == []


def test_held_answers_are_shown_and_released_once(make_app: MakeApp) -> None:
    app = make_app(loop_limit=1)
    caller = Caller(app)
    for number in range(2):
        hear(caller, number)
    (held,) = caller.get("/v1/inbound", reply="held").json["items"]  # type: ignore[index]
    assert held["held_texts"] == ['This is a response to: "hello"']
    headers = {"Authorization": f"Bearer {API_KEY}"}
    path = f"/v1/inbound/{held['id']}/release"
    first, again = (app.test_client().post(path, headers=headers) for _ in range(2))
    assert (first.status_code, first.json["reply"], again.status_code) == (200, "queued", 409)  # type: ignore[index]
    assert len(caller.messages(to=ALICE)) == 2


def test_a_text_that_is_not_there_cannot_be_released(call: Any) -> None:
    assert call("POST", "/inbound/7/release").status_code == 404


@pytest.mark.parametrize("up_to", [False, True])
def test_false_is_not_the_inbound_id_0(caller: Caller, call: Any, up_to: bool) -> None:
    hear(caller, 0)
    answer = call("POST", f"/conversations/{ALICE}/read", {"up_to": up_to})
    assert (answer.status_code, answer.json["error"]["field"]) == (400, "up_to")
    assert call("GET", f"/conversations/{ALICE}").json["unread"] == 1


def test_the_answer_to_a_text_has_the_status_of_its_message(
    caller: Caller, call: Any, database: Database
) -> None:
    hear(caller, 0)
    seen = [call("GET", "/inbound").json["items"][0]["reply"]]
    with database.write() as connection:
        connection.execute(update(tables.messages).values(status="delivered"))
    seen.append(call("GET", "/inbound").json["items"][0]["reply"])
    lines = call("GET", f"/conversations/{ALICE}").json["items"]
    seen += [line["reply"] for line in lines if line["direction"] == "in"]
    assert seen == ["queued", "delivered", "delivered"]
    assert len(call("GET", "/inbound?reply=queued").json["items"]) == 1
