"""What waits for a person, of every kind: listed by key, released and cancelled by name."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from messaging.access.actor import Actor, acting
from messaging.batches import control
from messaging.messages import held as held_messages
from messaging.operations import held
from messaging.operations.audit import audit
from messaging.operations.held import cancel_all, list_held, release_all
from messaging.operations.metrics import Gauges
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.new_ids import reserve_ids
from tests.support import delivery
from utils.errors import Conflict, InvalidInput, NotFound, OptedOut


@pytest.fixture(autouse=True)
def _an_approver_acts(_nobody_acts: None) -> None:
    acting.set(Actor("operator:mary", may_approve=True))


def hold(database: Database, *ids: int, reason: str = "database_restored") -> None:
    delivery.in_write(
        database, lambda connection, now: held_messages.hold(connection, list(ids), reason, now)
    )


def held_reply(database: Database, phone: str, outcome: str = "held") -> int:
    with database.write() as connection:
        inbound_id = reserve_ids(connection, tables.inbound_messages, 1)[0]
        row = {
            "id": inbound_id,
            "provider_inbound_id": f"in-{inbound_id}",
            "sender": phone,
            "recipient": "20880",
            "text": "hi",
            "meaning": "message",
            "reply_outcome": outcome,
            "held_texts": '["Hello", "again"]',
            "received_at": wall_clock(connection),
        }
        connection.execute(insert(tables.inbound_messages).values(**row))
    return inbound_id


def braked_batch(database: Database, reason: str = "daily_limit") -> int:
    batch_id = delivery.queue_batch(database, [delivery.phone(77)])
    delivery.change(database, tables.batches, batch_id, status="paused", reason=reason)
    return batch_id


@pytest.fixture
def waiting(database: Database) -> Database:
    """Two messages, a batch and a reply that are held; a batch paused by hand and a failed reply that are not."""
    hold(database, *delivery.queue(database, *delivery.phones(2)))
    braked_batch(database)
    control.pause(database, delivery.queue_batch(database, [delivery.phone(78)]))
    held_reply(database, delivery.phone(5))
    held_reply(database, delivery.phone(6), outcome="failed")
    return database


def names(found: dict[str, Any]) -> list[str]:
    return [one["id"] for one in found["items"]]


def test_every_kind_is_listed_and_nothing_else(waiting: Database) -> None:
    found = list_held(waiting)
    assert names(found) == ["batch:1", "reply:1", "message:2", "message:1"]
    assert found["next_cursor"] is None
    batch, reply, message, _ = found["items"]
    assert (batch["reason"], batch["messages"], batch["to"]) == ("daily_limit", 1, None)
    assert (reply["reason"], reply["texts"], reply["messages"]) == ("too_many_replies", ["Hello", "again"], 2)
    assert (message["reason"], message["to"]) == ("database_restored", delivery.phone(2))
    assert message["texts"] == ["Hello"]
    assert message["held_at"] is not None


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pages_follow_one_another_over_all_kinds(waiting: Database, size: int) -> None:
    seen: list[str] = []
    cursor = None
    while True:
        found = list_held(waiting, cursor=cursor, limit=size)
        assert len(found["items"]) <= size
        seen += names(found)
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert seen == ["batch:1", "reply:1", "message:2", "message:1"]


def test_one_kind_is_listed_by_itself(waiting: Database) -> None:
    first = list_held(waiting, "message", limit=1)
    assert names(first) == ["message:2"]
    assert names(list_held(waiting, "message", first["next_cursor"])) == ["message:1"]
    assert names(list_held(waiting, "reply")) == ["reply:1"]


def test_each_kind_is_released_by_its_name(waiting: Database) -> None:
    assert held.release(waiting, "message:1", "mary") == {"id": "message:1", "status": "queued"}
    assert held.release(waiting, "batch:1", "mary") == {"id": "batch:1", "status": "sending"}
    assert held.release(waiting, "reply:1", "mary") == {"id": "reply:1", "status": "queued"}
    assert names(list_held(waiting)) == ["message:2"]
    sent = [row.text for row in delivery.every(waiting, tables.messages) if row.origin == "reply"]
    assert sent == ["Hello", "again"]
    assert audit(waiting).problems == []


def test_each_kind_is_cancelled_by_its_name(waiting: Database) -> None:
    for name in ("message:1", "message:2", "batch:1", "reply:1"):
        assert held.cancel(waiting, name, "mary") == {"id": name, "status": "cancelled"}
        with pytest.raises(Conflict):
            held.release(waiting, name, "mary")
    assert list_held(waiting)["items"] == []
    assert [row.text for row in delivery.every(waiting, tables.messages) if row.origin == "reply"] == []
    assert audit(waiting).problems == []


def test_a_reply_to_somebody_who_opted_out_is_not_released(waiting: Database) -> None:
    delivery.opt_out(waiting, delivery.phone(5))
    with pytest.raises(OptedOut):
        held.release(waiting, "reply:1", "mary")
    assert "reply:1" in names(list_held(waiting))


@pytest.mark.parametrize("name", ["", "12", "message:0", "message:-1", "letter:1", "message:1 ", "message:٣"])
def test_a_name_that_is_none_is_refused_with_its_field(database: Database, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        held.release(database, name, "mary")
    assert (caught.value.code, caught.value.field) == ("invalid_id", "id")


@pytest.mark.parametrize("kind", held.KINDS)
@pytest.mark.parametrize("row_id", [404, 9999999999999999999])
@pytest.mark.parametrize("decide", [held.release, held.cancel])
def test_what_does_not_exist_is_not_found(database: Database, kind: str, row_id: int, decide: Any) -> None:
    with pytest.raises(NotFound):
        decide(database, f"{kind}:{row_id}", "mary")


def test_a_message_that_is_not_held_is_named_with_its_status(database: Database) -> None:
    (message_id,) = delivery.queue(database, delivery.phone(1))
    for decide in (held.release, held.cancel):
        with pytest.raises(held_messages.NotHeld, match="is queued"):
            decide(database, f"message:{message_id}", "mary")
    assert delivery.statuses_of(database) == ["queued"]


def test_everything_is_released_and_what_cannot_be_is_told(waiting: Database) -> None:
    braked_batch(waiting, reason="max_cost")
    done = [one for chunk in release_all(waiting, "mary") for one in chunk]
    assert {one.name: one.status for one in done} == {
        "batch:3": None,
        "batch:1": "sending",
        "reply:1": "queued",
        "message:1": "queued",
        "message:2": "queued",
    }
    assert [one.error.code for one in done if one.error] == ["conflict"]
    assert names(list_held(waiting)) == ["batch:3"]


def test_only_what_is_held_for_one_reason_is_released(
    waiting: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_messages, "CHUNK", 1)
    hold(waiting, *delivery.queue(waiting, *delivery.phones(3, first=30)), reason="daily_limit")
    done = [one.name for chunk in release_all(waiting, "mary", "daily_limit") for one in chunk]
    assert done == ["batch:1", "message:5", "message:6", "message:7"]
    assert names(list_held(waiting)) == ["reply:1", "message:2", "message:1"]


def test_everything_is_cancelled(waiting: Database) -> None:
    done = [one for chunk in cancel_all(waiting, "mary") for one in chunk]
    assert {one.status for one in done} == {"cancelled"}
    assert list_held(waiting)["items"] == []


def test_metrics_and_audit_tell_what_waits(waiting: Database) -> None:
    gauges = {gauge.name: gauge for gauge in Gauges(waiting).read()}
    assert gauges["sms_held"].values == {"batch": 1, "reply": 1, "message": 2}
    listed = [(one["kind"], one["id"]) for one in audit(waiting).listed if one["kind"] == "held_message"]
    assert listed == [("held_message", 2), ("held_message", 1)]
