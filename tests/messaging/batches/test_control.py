"""Holding, letting go and ending a batch: what may still leave, and what the books say afterwards."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from messaging import statuses
from messaging.batches import control, progress
from messaging.batches.progress import get_batch, watch
from messaging.batches.upkeep import BatchUpkeep
from messaging.messages import held, pause_names
from messaging.sending import pauses
from messaging.sending.last_check import Released
from messaging.sending.start_post import Posting
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.delivery import Clock
from utils.errors import Conflict, NotFound
from utils.json_shapes import rfc3339

pytest_plugins = ["tests.support.delivery_fixtures"]


def upkeep(database: Database) -> None:
    BatchUpkeep(database).look()


def status_of(database: Database, batch_id: int) -> str:
    return str(delivery.only(database, tables.batches, tables.batches.c.id == batch_id).status)


def test_nothing_of_a_paused_batch_is_claimed(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(3))
    assert control.pause(database, batch_id)["status"] == "paused"
    assert delivery.claim(database) == []


@pytest.mark.parametrize("status", ["sending", "paused"])
def test_a_batch_is_summed_up_after_its_row_is_free_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """The sums of a million rows take a second; a last check that has to pause it would wait so long."""
    batch_id = delivery.queue_batch(database, delivery.phones(2))
    if status == "paused":
        control.pause(database, batch_id)
    change = control.pause if status == "sending" else control.resume
    free = select(tables.batches.c.id).where(tables.batches.c.id == batch_id).with_for_update(nowait=True)

    def lock_and_sum(connection: Connection, batch: Any) -> Any:
        assert delivery.in_write(database, lambda other, _now: other.execute(free).scalar_one()) == batch_id
        return progress.batch_in_json(connection, batch)

    monkeypatch.setattr(control, "batch_in_json", lock_and_sum)
    assert change(database, batch_id)["counts"] == {"queued": 2}


def test_nothing_of_a_paused_batch_of_urgent_texts_is_claimed(database: Database) -> None:
    batch_id = delivery.new_batch(database, 1)
    delivery.queue(database, delivery.phone(1), batch_id=batch_id)
    control.pause(database, batch_id)
    assert delivery.claim(database) == []
    control.resume(database, batch_id)
    assert len(delivery.claim(database)) == 1


def test_a_resumed_batch_goes_on(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(3))
    control.pause(database, batch_id)
    assert control.resume(database, batch_id)["status"] == "sending"
    assert len(delivery.claim_one(database).recipients) == 3


def test_a_batch_resumed_before_its_time_waits_for_it(database: Database, clock: Clock) -> None:
    later = delivery.in_write(database, lambda _connection, now: now + timedelta(hours=1))
    batch_id = delivery.new_batch(database, 1, status="scheduled", send_at=later)
    delivery.queue(database, delivery.phone(1), batch_id=batch_id, priority=5, due_at=later)
    control.pause(database, batch_id)
    assert control.resume(database, batch_id)["status"] == "scheduled"
    clock.step(hours=2)
    upkeep(database)
    assert status_of(database, batch_id) == "sending"


def test_what_was_claimed_before_the_pause_goes_back_into_the_queue(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(3))
    held = delivery.claim_one(database)
    control.pause(database, batch_id)
    assert isinstance(delivery.begin(database, held), Released)
    assert set(delivery.statuses_of(database)) == {"queued"}
    control.resume(database, batch_id)
    assert len(delivery.claim_one(database).recipients) == 3


def test_a_pause_holds_only_its_own_rows_of_a_post_that_two_batches_share(database: Database) -> None:
    first = delivery.queue_batch(database, delivery.phones(2))
    delivery.queue_batch(database, delivery.phones(2, first=3))
    shared = delivery.claim_one(database)
    control.pause(database, first)
    posting = delivery.begin(database, shared)
    assert isinstance(posting, Posting)
    assert set(posting.claim.recipients) == set(delivery.phones(2, first=3))


def test_what_was_claimed_before_a_cancel_does_not_leave(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(2))
    held = delivery.claim_one(database)
    answer = control.cancel(database, batch_id)
    assert answer["under_way"] == 2
    assert isinstance(delivery.begin(database, held), Released)
    assert set(delivery.statuses_of(database)) == {"cancelled"}


def test_a_cancel_says_how_many_were_sent_already(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(5))
    for message_id in (1, 2):
        delivery.change(database, tables.messages, message_id, status=statuses.DELIVERED)
    answer = control.cancel(database, batch_id)
    assert (answer["cancelled"], answer["already_sent"], answer["to_be_cancelled"]) == (3, 2, 0)
    assert answer["message"] == "3 messages will not be sent; 2 were sent already and stay as they are"
    assert delivery.history(database, 3) == [("cancelled", "operator")]


def test_a_cancel_that_died_after_the_word_is_ended_by_the_upkeep(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(5))
    monkeypatch.setattr(control, "CHUNK", 2)

    def die(*_arguments: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(control, "cancel_chunk", die)
        with pytest.raises(KeyboardInterrupt):
            control.cancel(database, batch_id)
    assert delivery.claim(database) == []
    upkeep(database)
    assert set(delivery.statuses_of(database)) == {"cancelled"}
    upkeep(database)
    assert delivery.only(database, tables.batches, tables.batches.c.id == batch_id).finished_at is not None


def test_a_finished_batch_can_be_neither_paused_nor_cancelled(database: Database) -> None:
    batch_id = delivery.new_batch(database, status="finished")
    with pytest.raises(Conflict, match="has finished: it cannot be cancelled"):
        control.cancel(database, batch_id)
    with pytest.raises(Conflict, match="has finished: it cannot be paused"):
        control.pause(database, batch_id)


def test_a_cancelled_batch_cannot_be_resumed(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(1))
    control.cancel(database, batch_id)
    with pytest.raises(Conflict, match="has been cancelled"):
        control.resume(database, batch_id)


@pytest.mark.parametrize("batch_id", [0, -1, 77, 2**70])
def test_a_batch_that_is_not_there_is_not_found(database: Database, batch_id: int) -> None:
    for act in (control.pause, control.resume, control.cancel, get_batch):
        with pytest.raises(NotFound):
            act(database, batch_id)


def test_a_batch_is_finished_when_none_of_its_messages_is_queued_or_sending(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(2))
    delivery.change(database, tables.messages, 1, status=statuses.ACCEPTED)
    delivery.change(database, tables.messages, 2, status=statuses.SENDING)
    upkeep(database)
    assert status_of(database, batch_id) == "sending"
    delivery.change(database, tables.messages, 2, status=statuses.UNKNOWN)
    upkeep(database)
    batch = get_batch(database, batch_id)
    assert (batch["status"], batch["progress"]) == ("finished", 1.0)
    assert batch["finished_at"] is not None


def test_every_batch_has_its_turn_at_being_finished(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messaging.batches.upkeep.WINDOW", 2)
    monkeypatch.setattr(
        "messaging.batches.upkeep._OPEN_BATCHES",
        __import__("messaging.batches.upkeep", fromlist=["x"])._OPEN_BATCHES.limit(2),
    )
    for _ in range(4):
        delivery.queue_batch(database, delivery.phones(1))
    done = delivery.new_batch(database)
    looking = BatchUpkeep(database)
    for _ in range(3):
        looking.look()
    assert status_of(database, done) == "finished"


def test_progress_counts_by_status_and_adds_up_what_was_billed(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(4))
    bill = {"cost_text": "KES 0.8000", "cost_micros": 800_000, "cost_currency": "KES", "parts": 1}
    delivery.change(database, tables.messages, 1, status=statuses.DELIVERED, **bill)
    delivery.change(database, tables.messages, 2, status=statuses.ACCEPTED, **bill)
    batch = get_batch(database, batch_id)
    assert batch["counts"] == {"accepted": 1, "delivered": 1, "queued": 2}
    assert (batch["progress"], batch["parts"]) == (0.5, 2)
    assert batch["cost"] == {"amount": "1.6000", "currency": "KES"}


def test_progress_is_whole_only_when_nothing_is_left(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(1))
    with database.read() as connection:
        batch = progress.require_batch(connection, batch_id)
    assert progress._progress(batch, {"accepted": 999_999, "queued": 1}) == 0.9999
    assert progress._progress(batch, {"accepted": 1_000_000}) == 1.0


def test_costs_in_two_currencies_are_not_added(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(2))
    delivery.change(database, tables.messages, 1, cost_micros=800_000, cost_currency="KES")
    delivery.change(database, tables.messages, 2, cost_micros=35_000_000, cost_currency="UGX")
    batch = get_batch(database, batch_id)
    assert batch["cost"] is None
    assert [cost["currency"] for cost in batch["costs"]] == ["KES", "UGX"]


def test_a_batch_of_which_all_that_is_left_waits_for_a_clock_says_until_when(database: Database) -> None:
    later = delivery.in_write(database, lambda _connection, now: now + timedelta(hours=9))
    batch_id = delivery.new_batch(database, 2)
    delivery.queue(database, delivery.phone(1), batch_id=batch_id, priority=5)
    delivery.queue(database, delivery.phone(2), batch_id=batch_id, priority=5, due_at=later)
    assert get_batch(database, batch_id)["waiting"] == [waits(None, 1, until=rfc3339(later))]
    assert not next(watch(database, batch_id)).is_waiting

    delivery.claim_one(database)
    assert not next(watch(database, batch_id)).is_waiting  # one is on its way
    with database.write() as connection:
        connection.execute(
            update(tables.messages).where(tables.messages.c.status == "sending").values(status="accepted")
        )
        connection.execute(
            update(tables.messages)
            .where(tables.messages.c.status == "queued")
            .values(reason="do_not_disturb")
        )
    waiting = get_batch(database, batch_id)["waiting"]
    assert waiting == [waits("do_not_disturb", 1, until=rfc3339(later))]
    assert next(watch(database, batch_id)).is_waiting


def waits(
    reason: str | None, count: int, *, until: str | None = None, pause: str | None = None
) -> dict[str, Any]:
    return {"reason": reason, "count": count, "until": until, "pause": pause}


def pause(database: Database, name: str, reason: str = "why") -> None:
    delivery.in_write(database, lambda connection, now: pauses.pause(connection, name, reason, None, now))


def test_a_batch_whose_sender_is_paused_says_why_it_does_not_move(database: Database) -> None:
    batch_id = delivery.new_batch(database, 3, sender_id="Acme")
    delivery.queue(database, *delivery.phones(2), batch_id=batch_id, priority=5)
    pause(database, pause_names.sender_name("OTHER"))
    assert get_batch(database, batch_id)["waiting"] == []
    assert not next(watch(database, batch_id)).is_waiting

    pause(database, pause_names.sender_name("Acme"), "invalid_sender_id")
    held_up = waits("invalid_sender_id", 2, pause="sender:ACME")
    assert get_batch(database, batch_id)["waiting"] == [held_up]
    assert next(watch(database, batch_id)).is_waiting
    pause(database, pause_names.ACCOUNT, "insufficient_balance")
    held_up = waits("insufficient_balance", 2, pause="account")
    assert get_batch(database, batch_id)["waiting"] == [held_up]

    delivery.change(database, tables.messages, 1, status=statuses.SENDING)
    assert not next(watch(database, batch_id)).is_waiting  # one is on its way


def test_a_batch_that_is_scheduled_waits_for_its_time(database: Database) -> None:
    now = delivery.in_write(database, lambda _connection, now: now)
    batch_id = delivery.new_batch(database, 1)
    delivery.queue(database, delivery.phone(1), batch_id=batch_id, priority=5)
    later = {"status": "scheduled", "send_at": now + timedelta(days=20)}
    delivery.change(database, tables.batches, batch_id, **later)
    assert next(watch(database, batch_id)).is_waiting
    delivery.change(database, tables.batches, batch_id, send_at=now - timedelta(seconds=1))
    assert not next(watch(database, batch_id)).is_waiting


def test_what_waits_is_told_by_reason_with_the_next_time(database: Database) -> None:
    now = delivery.in_write(database, lambda _connection, now: now)
    batch_id = delivery.new_batch(database, 7)
    for number, hours in enumerate((2, 1, 3), 1):
        due_at = now + timedelta(hours=hours)
        delivery.queue(database, delivery.phone(number), batch_id=batch_id, priority=5, due_at=due_at)
        delivery.change(database, tables.messages, number, reason="sending_window")
    delivery.queue(database, *delivery.phones(3, first=4), batch_id=batch_id, priority=5)
    delivery.in_write(database, lambda connection, now: held.hold(connection, [4, 5], "daily_limit", now))
    assert get_batch(database, batch_id)["waiting"] == [
        waits("sending_window", 3, until=rfc3339(now + timedelta(hours=1))),
        waits("daily_limit", 2),
    ]


def test_watching_a_batch_ends_with_it(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(2))
    watching = watch(database, batch_id)
    assert (next(watching).settled, next(watching).seconds_left) == (0, None)
    delivery.change(database, tables.messages, 1, status=statuses.ACCEPTED)
    pace = next(watching)
    assert pace.settled == 1
    assert pace.seconds_left is not None
    delivery.change(database, tables.messages, 2, status=statuses.ACCEPTED)
    upkeep(database)
    assert [pace.is_over for pace in watching] == [True]


def test_an_opt_out_during_the_batch_counts_at_once(database: Database) -> None:
    batch_id = delivery.queue_batch(database, delivery.phones(3))
    held = delivery.claim_one(database, recipients=2, posts=1)
    delivery.opt_out(database, delivery.phone(2))
    delivery.opt_out(database, delivery.phone(3))
    assert list(delivery.begin_posting(database, held).claim.recipients) == [delivery.phone(1)]
    assert delivery.claim(database) == []
    assert get_batch(database, batch_id)["counts"] == {"blocked": 2, "sending": 1}
