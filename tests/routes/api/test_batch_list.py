from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from messaging.batches import progress
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.web import Caller


def ids(answer: Any) -> list[int]:
    assert answer.status_code == 200
    return [one["id"] for one in answer.json["items"]]


def test_batches_are_listed_newest_first_and_page_by_page(caller: Caller, database: Database) -> None:
    for number in range(3):
        delivery.queue_batch(database, [delivery.phone(number)])
    first = caller.get("/v1/batches", limit=2)
    assert ids(first) == [3, 2]
    second = caller.get("/v1/batches", limit=2, cursor=first.json["next_cursor"])  # type: ignore[index]
    assert ids(second) == [1]
    assert second.json["next_cursor"] is None  # type: ignore[index]


def test_a_batch_looks_in_the_list_as_it_does_alone(caller: Caller, database: Database) -> None:
    delivery.queue_batch(database, delivery.phones(3))
    other = delivery.queue_batch(database, delivery.phones(2, first=10))
    delivery.change(
        database, tables.messages, 4, status="accepted", cost_micros=800_000, cost_currency="KES", parts=1
    )
    alone = caller.get(f"/v1/batches/{other}").json
    assert caller.get("/v1/batches").json["items"][0] | {"waiting": []} == alone  # type: ignore[index]
    assert alone["counts"] == {"accepted": 1, "queued": 1}  # type: ignore[index]


def test_behind_a_million_messages_nothing_is_counted(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MOST_COUNTED", 2)
    for _ in range(2):
        delivery.queue_batch(database, delivery.phones(2))
    newest, older = caller.get("/v1/batches").json["items"]  # type: ignore[index]
    assert newest["counts"] == {"queued": 2}
    assert (older["counts"], older["progress"], older["parts"]) == (None, None, None)
    assert older["total"] == 2


def test_of_one_that_is_still_being_read_no_row_is_counted(caller: Caller, database: Database) -> None:
    batch = delivery.queue_batch(database, delivery.phones(3))
    delivery.change(database, tables.batches, batch, status="receiving", total=3)
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    with database.read():
        found = progress.list_batches(database)["items"]
    assert (found[0]["counts"], found[0]["progress"], found[0]["parts"]) == ({"queued": 3}, 0.0, 0)
    assert not any("sum(" in one for one in asked)


def test_a_bad_cursor_is_refused(caller: Caller) -> None:
    answer = caller.get("/v1/batches", cursor="x")
    assert answer.status_code == 400
    assert answer.json["error"]["code"] == "invalid_cursor"  # type: ignore[index]


def test_a_batch_says_why_its_texts_did_not_arrive(caller: Caller, database: Database) -> None:
    batch = delivery.queue_batch(database, delivery.phones(6))
    other = delivery.queue_batch(database, [delivery.phone(9)])
    became = ["failed", "failed", "blocked", "delivered", "queued", "unknown", "failed"]
    why = [
        "absent_subscriber",
        "absent_subscriber",
        "opted_out",
        None,
        "do_not_disturb",
        "timed_out",
        "expired",
    ]
    for message_id, (status, reason) in enumerate(zip(became, why, strict=True), 1):
        delivery.change(database, tables.messages, message_id, status=status, reason=reason)
    found: Any = caller.get(f"/v1/batches/{batch}/reasons").json
    assert [(one["status"], one["reason"], one["messages"]) for one in found["items"]] == [
        ("failed", "absent_subscriber", 2),
        ("blocked", "opted_out", 1),
        ("unknown", "timed_out", 1),
    ]
    first = found["items"][0]
    assert set(first) == {"status", "reason", "messages", "explanation", "remedy"}
    assert first["explanation"]
    (alone,) = caller.get(f"/v1/batches/{other}/reasons").json["items"]  # type: ignore[index]
    assert alone["messages"] == 1
    assert caller.get("/v1/batches/77/reasons").status_code == 404
