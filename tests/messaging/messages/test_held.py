"""What a brake or a restore holds: never sent by itself, in nobody's way, and asked about again when it is released."""

from __future__ import annotations

from datetime import timedelta

import pytest

from messaging.batches import control, upkeep
from messaging.batches.progress import get_batch, watch
from messaging.batches.upkeep import BatchUpkeep
from messaging.consent import ledger
from messaging.messages import held, lost_texts
from messaging.messages.queue import NewMessage, enqueue
from messaging.operations import sweep
from messaging.operations.audit import audit
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.delivery import Clock

pytest_plugins = ["tests.support.delivery_fixtures"]
WHY = lost_texts.REASON


def hold(database: Database, *ids: int, reason: str = WHY) -> list[int]:
    return delivery.in_write(database, lambda connection, now: held.hold(connection, list(ids), reason, now))


def release(database: Database, *ids: int) -> dict[int, str]:
    return delivery.in_write(
        database,
        lambda connection, now: held.release(connection, ids, now, "mary", ledger.suppressed),
    )


def status_of(database: Database, message_id: int) -> tuple[str, str | None]:
    row = delivery.message(database, message_id)
    return row.status, row.reason


def test_a_held_message_is_not_claimed_until_it_is_released(database: Database) -> None:
    (message_id,) = delivery.queue(database, delivery.phone(1))
    assert hold(database, message_id) == [message_id]
    assert status_of(database, message_id) == ("held", WHY)
    assert delivery.claim(database) == []
    assert release(database, message_id) == {message_id: "queued"}
    assert delivery.claim_one(database).recipients == {delivery.phone(1): message_id}
    assert delivery.history(database, message_id) == [("held", "worker"), ("queued", "operator")]
    assert audit(database).problems == []


def test_the_history_names_who_released(database: Database) -> None:
    (message_id,) = delivery.queue(database, delivery.phone(1))
    hold(database, message_id)
    release(database, message_id)
    details = [row.detail for row in delivery.every(database, tables.message_events)]
    assert details == [WHY, "released by mary"]


def test_a_message_can_be_held_in_the_transaction_that_makes_it(database: Database) -> None:
    with database.write() as connection:
        ids = enqueue(connection, [NewMessage(delivery.phone(1), "Hello")])
        assert held.hold(connection, ids, "daily_limit", wall_clock(connection)) == list(ids)
    assert delivery.claim(database) == []


def test_what_is_not_queued_is_not_held(database: Database) -> None:
    (message_id,) = delivery.queue(database, delivery.phone(1))
    delivery.claim_one(database)
    assert hold(database, message_id) == []
    assert status_of(database, message_id) == ("sending", None)


def test_a_held_message_is_in_nobodys_way(database: Database) -> None:
    first, second = delivery.queue(database, delivery.phone(1), delivery.phone(1))
    hold(database, first)
    assert delivery.claim_one(database).recipients == {delivery.phone(1): second}


@pytest.mark.parametrize("forbidden", ["opted_out", "too_late", "batch_cancelled"])
def test_what_forbids_a_text_is_asked_again_when_it_is_released(
    database: Database, clock: Clock, forbidden: str
) -> None:
    later = delivery.in_write(database, lambda _connection, now: now + timedelta(hours=1))
    batch_id = delivery.queue_batch(database, [delivery.phone(1)], expires_at=later)
    hold(database, 1)
    if forbidden == "opted_out":
        delivery.opt_out(database, delivery.phone(1))
    elif forbidden == "too_late":
        clock.step(hours=2)
    else:
        delivery.change(database, tables.batches, batch_id, status="cancelled")
    wanted = {"opted_out": "blocked", "too_late": "expired", "batch_cancelled": "cancelled"}[forbidden]
    assert release(database, 1) == {1: wanted}
    assert status_of(database, 1) == (wanted, forbidden)
    assert delivery.message(database, 1).finished_at is not None
    assert audit(database).problems == []


def test_a_block_of_another_sender_keeps_nobody(database: Database) -> None:
    (message_id,) = delivery.queue(database, delivery.phone(1), sender_id="CLINIC")
    delivery.opt_out(database, delivery.phone(1), "SHOP", scope="sender")
    hold(database, message_id)
    assert release(database, message_id) == {message_id: "queued"}


def test_what_is_released_twice_is_queued_once(database: Database) -> None:
    (message_id,) = delivery.queue(database, delivery.phone(1))
    hold(database, message_id)
    assert release(database, message_id) == {message_id: "queued"}
    assert release(database, message_id) == {}
    assert len(delivery.history(database, message_id)) == 2


def test_a_cancelled_one_is_final(database: Database) -> None:
    (message_id,) = delivery.queue(database, delivery.phone(1))
    hold(database, message_id)
    cancelled = delivery.in_write(
        database, lambda connection, now: held.cancel(connection, [message_id], now, "mary")
    )
    assert cancelled == [message_id]
    assert status_of(database, message_id) == ("cancelled", "by_hand")
    assert release(database, message_id) == {}
    assert audit(database).problems == []


def test_a_held_message_expires_by_itself(database: Database, clock: Clock) -> None:
    later = delivery.in_write(database, lambda _connection, now: now + timedelta(hours=1))
    first, second = delivery.queue(database, *delivery.phones(2))
    delivery.change(database, tables.messages, first, expires_at=later)
    hold(database, first, second)
    clock.step(hours=2)
    assert sweep._settle_in_chunks(database, sweep._held_too_late) == 1
    assert status_of(database, first) == ("expired", "too_late")
    assert status_of(database, second) == ("held", WHY)
    assert audit(database).problems == []


def test_a_batch_is_not_finished_while_something_of_it_is_held(database: Database) -> None:
    batch_id = delivery.queue_batch(database, [delivery.phone(1)])
    hold(database, 1)
    BatchUpkeep(database).look()
    found = get_batch(database, batch_id)
    assert (found["status"], found["counts"], found["progress"]) == ("sending", {"held": 1}, 0)
    assert found["waiting"] == [{"reason": WHY, "count": 1, "until": None, "pause": None}]
    speed = next(watch(database, batch_id))
    assert (speed.settled, speed.is_over) == (0, False)
    assert speed.is_waiting
    delivery.in_write(database, lambda connection, now: held.cancel(connection, [1], now, "mary"))
    BatchUpkeep(database).look()
    assert get_batch(database, batch_id)["status"] == "finished"


def test_a_batch_of_which_something_is_held_since_the_look_is_not_finished(database: Database) -> None:
    batch_id = delivery.queue_batch(database, [delivery.phone(1)])
    hold(database, 1)
    delivery.in_write(database, lambda connection, now: upkeep._write(connection, [], [batch_id], now))
    assert get_batch(database, batch_id)["status"] == "sending"


def test_cancelling_a_batch_cancels_what_is_held_of_it(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(3))
    hold(database, 1)
    assert control.cancel(database, batch_id)["cancelled"] == 3
    BatchUpkeep(database).look()
    assert get_batch(database, batch_id)["finished_at"] is not None
    assert audit(database).problems == []


def test_a_worker_cancels_what_is_held_of_a_cancelled_batch(database: Database) -> None:
    batch_id = delivery.queue_batch(database, [delivery.phone(1)])
    hold(database, 1)
    delivery.change(database, tables.batches, batch_id, status="cancelled")
    BatchUpkeep(database).look()
    assert status_of(database, 1) == ("cancelled", "batch_cancelled")


def test_all_that_is_due_is_held_in_steps_and_what_is_due_later_is_not(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "CHUNK", 2)
    later = delivery.in_write(database, lambda _connection, now: now + timedelta(hours=1))
    delivery.queue(database, *delivery.phones(2))
    delivery.queue(database, delivery.phone(9), due_at=later)
    batch_id = delivery.queue_batch(database, delivery.phones(3, first=20))
    control.pause(database, batch_id)
    assert held.hold_all_due(database, WHY) == 5
    assert delivery.statuses_of(database) == ["held", "held", "queued", "held", "held", "held"]
    assert {row.source for row in delivery.every(database, tables.message_events)} == {"recovery"}
    assert held.hold_all_due(database, WHY) == 0


def test_what_was_sent_long_ago_is_not_looked_through_for_what_is_due(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "CHUNK", 2)
    ids = delivery.queue(database, *delivery.phones(9))
    for one in ids[:7]:
        delivery.change(database, tables.messages, one, status="delivered")
    looked: list[int] = []
    hold_due = held.hold_due
    monkeypatch.setattr(
        held, "hold_due", lambda *given, **named: looked.append(given[3]) or hold_due(*given, **named)
    )
    assert held.hold_all_due(database, WHY) == 2
    assert looked == [ids[6]]
