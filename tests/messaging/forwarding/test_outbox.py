from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Self

import pytest
from sqlalchemy import event

from messaging import statuses
from messaging.batches import control, importer, upload
from messaging.batches.upkeep import BatchUpkeep
from messaging.consent import ledger
from messaging.forwarding import events, outbox, receiver_state
from messaging.forwarding.delivery import THREADS, Forwarder
from messaging.forwarding.outbox import BACKOFF, LEASE, MOST_ATTEMPTS, DueEvent
from messaging.forwarding.views import show_forwarding
from messaging.messages import status_events
from messaging.messages.queue import BATCH_PRIORITY
from messaging.operations import sweep
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.callback_rows import open_inbox
from tests.support.delivery import Clock, change, count, every, new_batch, phone, phones, queue
from utils.errors import NotFound
from utils.settings import Settings
from utils.webhook_client import WebhookAnswer

pytest_plugins = ["tests.support.delivery_fixtures"]

URL = "https://crm.example.org/events?key=hidden"
RECEIVER = receiver_state.receiver_of(URL)
SECRET = f"whsec_{'A' * 43}="
ACCEPTED = WebhookAnswer(200, None)
BROKEN = WebhookAnswer(503, "answered 503")
SILENT = WebhookAnswer(None, "no answer in time")
GONE = WebhookAnswer(410, "answered 410")
REFUSED = WebhookAnswer(400, "answered 400")


class Receiver:
    """In place of the HTTP client: answers as it is told and keeps what it was posted."""

    def __init__(self, answer: Callable[[str], WebhookAnswer] = lambda event_id: ACCEPTED) -> None:
        self.answer = answer
        self.posted: list[tuple[str, dict[str, Any]]] = []

    def line(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def post(self, event_id: str, body: bytes) -> WebhookAnswer:
        self.posted.append((event_id, json.loads(body)))
        return self.answer(event_id)

    @property
    def ids(self) -> list[str]:
        return [event_id for event_id, _ in self.posted]


@pytest.fixture
def forwarding_database(database: Database) -> Database:
    database.forwards = True
    return database


def forwarder(database: Database, receiver: Receiver, url: str = URL) -> Forwarder:
    return Forwarder(database, receiver, receiver_state.receiver_of(url), threading.Event())  # type: ignore[arg-type]


def run(database: Database, receiver: Receiver, url: str = URL) -> int:
    return forwarder(database, receiver, url).run_until_idle()


def settle(database: Database, *ids: int, status: str = statuses.CANCELLED) -> None:
    with database.write() as connection:
        status_events.settle(connection, ids, status, "asked_for", wall_clock(connection))


def add_events(database: Database, number: int) -> list[str]:
    settle(database, *queue(database, *phones(number)))
    return [row.event_id for row in every(database, tables.forward_events)][-number:]


def told(database: Database) -> list[tuple[str, dict[str, Any]]]:
    return [(row.type, json.loads(row.body)["data"]) for row in every(database, tables.forward_events)]


def states(database: Database) -> dict[str, int]:
    return dict(Counter(row.state for row in every(database, tables.forward_events)))


def standing(database: Database, settings: Settings, url: str = URL) -> dict[str, Any]:
    on = settings.model_copy(update={"forward_url": url, "forward_secret": (SECRET,)})
    return show_forwarding(on, database)


def receive(database: Database, settings: Settings, kind: str, body: bytes) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive(kind, body)


def test_nothing_is_written_where_nothing_is_forwarded(database: Database, settings: Settings) -> None:
    settle(database, *queue(database, phone(1)))
    receive(database, settings, "inbound", b"from=%2B254711000001&to=20880&text=STOP&id=1")
    assert every(database, tables.forward_events) == []


def test_a_fact_that_is_rolled_back_is_not_told(forwarding_database: Database) -> None:
    (message_id,) = queue(forwarding_database, phone(1))
    with forwarding_database.write() as connection:
        now = wall_clock(connection)
        status_events.settle(connection, [message_id], statuses.CANCELLED, "asked_for", now)
        connection.get_transaction().rollback()  # type: ignore[union-attr]
    assert every(forwarding_database, tables.forward_events) == []


@pytest.mark.parametrize("status", sorted(events.TOLD))
def test_every_last_status_is_told_and_unknown_too(forwarding_database: Database, status: str) -> None:
    (message_id,) = queue(forwarding_database, phone(1), text="not in the event")
    settle(forwarding_database, message_id, status=status)
    ((name, data),) = told(forwarding_database)
    assert name == f"message.{status}"
    assert (data["id"], data["to"], data["status"]) == (message_id, phone(1), status)
    assert "not in the event" not in json.dumps(data)


def test_a_step_on_the_way_is_not_told(forwarding_database: Database) -> None:
    (message_id,) = queue(forwarding_database, phone(1))
    settle(forwarding_database, message_id, status=statuses.ACCEPTED)
    assert told(forwarding_database) == []


def test_a_delivery_report_is_told_with_what_the_message_cost(
    forwarding_database: Database, settings: Settings
) -> None:
    (message_id,) = queue(forwarding_database, phone(1))
    change(
        forwarding_database,
        tables.messages,
        message_id,
        status="accepted",
        provider_message_id="ATXid_1",
        cost_text="KES 0.8000",
        parts=1,
    )
    receive(forwarding_database, settings, "report", b"id=ATXid_1&status=Success&networkCode=63902")
    ((name, data),) = told(forwarding_database)
    assert name == "message.delivered"
    assert data["cost"] == {"amount": "0.8000", "currency": "KES"}
    assert (data["provider_message_id"], data["source"]) == ("ATXid_1", "report")
    assert data["network"].startswith("Safaricom")


def test_a_text_is_told_once_however_often_it_comes(
    forwarding_database: Database, settings: Settings
) -> None:
    for _ in range(2):
        body = "from=%2B254711000001&to=20880&text=Habari+ሰላም&id=in-1&linkId=L1".encode()
        receive(forwarding_database, settings, "inbound", body)
    (data,) = [data for name, data in told(forwarding_database) if name == "inbound.received"]
    assert (data["from"], data["to"], data["text"]) == ("+254711000001", "20880", "Habari ሰላም")
    assert (data["meaning"], data["link_id"]) == ("message", "L1")


def test_every_entry_of_the_ledger_is_told(forwarding_database: Database) -> None:
    with forwarding_database.write() as connection:
        ledger.record_stop(connection, phone(1), "sender", "Clinic", ledger.CALLBACK)
        ledger.lift(connection, phone(1), source="operator")
    (stopped, lifted) = told(forwarding_database)
    assert (stopped[0], lifted[0]) == ("opt_out.recorded", "opt_out.lifted")
    assert (stopped[1]["phone"], stopped[1]["sender_id"]) == (phone(1), "CLINIC")
    assert (lifted[1]["action"], lifted[1]["source"]) == ("lift", "operator")


def test_the_end_of_a_batch_is_told_once(forwarding_database: Database) -> None:
    batch_id = new_batch(forwarding_database, total=7, name="Notice", status="sending")
    for _ in range(2):
        BatchUpkeep(forwarding_database).look()
    ((name, data),) = told(forwarding_database)
    assert (name, data["id"], data["total"], data["name"]) == ("batch.finished", batch_id, 7, "Notice")
    assert data["status"] == "finished"


def test_a_batch_with_something_left_to_send_has_not_ended(forwarding_database: Database) -> None:
    batch_id = new_batch(forwarding_database, total=1, status="sending")
    queue(forwarding_database, phone(1), batch_id=batch_id, priority=BATCH_PRIORITY)
    BatchUpkeep(forwarding_database).look()
    assert told(forwarding_database) == []
    control.cancel(forwarding_database, batch_id)
    BatchUpkeep(forwarding_database).look()
    ended = [data for name, data in told(forwarding_database) if name == "batch.finished"]
    assert [(data["id"], data["status"]) for data in ended] == [(batch_id, "cancelled")]


def test_the_end_of_a_file_with_no_row_to_send_is_told(
    forwarding_database: Database, settings: Settings
) -> None:
    request = upload.BatchRequest("Hello")
    upload.receive(settings, forwarding_database, request, io.BytesIO(b"phone\n12\n"))
    importer.import_next(forwarding_database, settings, lambda: False)
    ((name, data),) = told(forwarding_database)
    assert (name, data["status"], data["refused"]) == ("batch.finished", "finished", 1)


def test_a_thousand_statuses_cost_no_statement_each(forwarding_database: Database) -> None:
    ids = queue(forwarding_database, *phones(800))
    statements = 0

    def counted(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(forwarding_database.engine, "before_cursor_execute", counted)
    settle(forwarding_database, *ids)
    event.remove(forwarding_database.engine, "before_cursor_execute", counted)
    assert count(forwarding_database, tables.forward_events) == 800
    assert statements < 12


def test_what_is_accepted_is_delivered_once(forwarding_database: Database) -> None:
    ids = add_events(forwarding_database, 300)
    receiver = Receiver()
    assert run(forwarding_database, receiver) == 300
    assert sorted(receiver.ids) == sorted(ids)
    assert states(forwarding_database) == {"delivered": 300}
    assert run(forwarding_database, receiver) == 0


def test_the_body_says_what_it_is_and_when(forwarding_database: Database) -> None:
    add_events(forwarding_database, 1)
    receiver = Receiver()
    run(forwarding_database, receiver)
    ((_, body),) = receiver.posted
    assert set(body) == {"type", "timestamp", "data"}
    assert (body["type"], body["timestamp"]) == ("message.cancelled", body["data"]["at"])


def test_a_worker_that_died_leaves_its_events_to_the_next_one(
    forwarding_database: Database, clock: Clock
) -> None:
    (event_id,) = add_events(forwarding_database, 1)
    assert len(outbox.claim(forwarding_database, RECEIVER)) == 1
    receiver = Receiver()
    assert run(forwarding_database, receiver) == 0
    clock.step(seconds=LEASE.total_seconds() + 1)
    assert run(forwarding_database, receiver) == 1
    assert receiver.ids == [event_id]


def reclaimed(database: Database, clock: Clock) -> tuple[list[DueEvent], list[DueEvent]]:
    """One event claimed by a worker that is slow, then by another."""
    add_events(database, 1)
    slow = outbox.claim(database, RECEIVER)
    clock.step(seconds=LEASE.total_seconds() + 1)
    return slow, outbox.claim(database, RECEIVER)


def test_a_failure_that_comes_after_the_lease_changes_nothing(
    forwarding_database: Database, clock: Clock
) -> None:
    slow, other = reclaimed(forwarding_database, clock)
    (before,) = every(forwarding_database, tables.forward_events)
    outbox.record(forwarding_database, RECEIVER, slow, {slow[0].row_id: BROKEN})
    (after,) = every(forwarding_database, tables.forward_events)
    assert (after.due_at, after.attempts, after.last_error) == (before.due_at, 2, None)
    outbox.record(forwarding_database, RECEIVER, other, {other[0].row_id: ACCEPTED})
    assert states(forwarding_database) == {"delivered": 1}


def test_an_acceptance_counts_also_after_the_lease(forwarding_database: Database, clock: Clock) -> None:
    slow, other = reclaimed(forwarding_database, clock)
    outbox.record(forwarding_database, RECEIVER, slow, {slow[0].row_id: ACCEPTED})
    outbox.record(forwarding_database, RECEIVER, other, {other[0].row_id: BROKEN})
    assert states(forwarding_database) == {"delivered": 1}


def test_what_a_stop_left_untried_costs_no_attempt(forwarding_database: Database) -> None:
    add_events(forwarding_database, 2)
    due = outbox.claim(forwarding_database, RECEIVER)
    outbox.record(forwarding_database, RECEIVER, due, {due[0].row_id: ACCEPTED})
    assert sorted((row.state, row.attempts) for row in every(forwarding_database, tables.forward_events)) == [
        ("delivered", 1),
        ("waiting", 0),
    ]


def test_the_attempts_last_about_two_days() -> None:
    assert timedelta(hours=44) < sum(BACKOFF, timedelta()) < timedelta(hours=52)
    assert all(earlier <= later for earlier, later in pairwise(BACKOFF))


def test_a_refused_event_is_tried_again_later_and_with_the_same_id(
    forwarding_database: Database, clock: Clock
) -> None:
    (event_id,) = add_events(forwarding_database, 1)
    receiver = Receiver(lambda event_id: BROKEN)
    assert run(forwarding_database, receiver) == 1
    (row,) = every(forwarding_database, tables.forward_events)
    assert (row.state, row.http_status, row.last_error) == ("waiting", 503, "answered 503")
    clock.step(minutes=1)
    receiver.answer = lambda event_id: ACCEPTED
    assert run(forwarding_database, receiver) == 1
    assert receiver.ids == [event_id, event_id]


def test_an_event_that_is_never_taken_fails_and_can_be_sent_again(
    forwarding_database: Database, clock: Clock, settings: Settings
) -> None:
    bad, good = add_events(forwarding_database, 2)
    receiver = Receiver(lambda event_id: BROKEN if event_id == bad else ACCEPTED)
    for _ in range(MOST_ATTEMPTS + 1):
        run(forwarding_database, receiver)
        clock.step(hours=9)
    assert Counter(receiver.ids) == {bad: MOST_ATTEMPTS, good: 1}
    assert states(forwarding_database) == {"delivered": 1, "failed": 1}
    found = standing(forwarding_database, settings)
    assert (found["state"], found["counts"]) == ("failing", {"waiting": 0, "failed": 1})
    receiver.answer = lambda event_id: ACCEPTED
    outbox.resend(forwarding_database, bad)
    run(forwarding_database, receiver)
    assert states(forwarding_database) == {"delivered": 2}


def test_a_delivered_event_can_be_sent_again(forwarding_database: Database) -> None:
    (event_id,) = add_events(forwarding_database, 1)
    receiver = Receiver()
    run(forwarding_database, receiver)
    outbox.resend(forwarding_database, event_id)
    run(forwarding_database, receiver)
    assert receiver.ids == [event_id, event_id]


@pytest.mark.parametrize("event_id", ["evt_nothing", "", "\0", "evt_\ud800"])
def test_an_event_that_does_not_exist_cannot_be_sent_again(database: Database, event_id: str) -> None:
    with pytest.raises(NotFound):
        outbox.resend(database, event_id)


def test_a_dead_receiver_is_asked_with_one_event_at_a_time(
    forwarding_database: Database, clock: Clock
) -> None:
    ids = add_events(forwarding_database, outbox.CHUNK + 50)
    receiver = Receiver(lambda event_id: SILENT)
    assert run(forwarding_database, receiver) == THREADS
    assert run(forwarding_database, receiver) == 0
    for _ in range(3):
        clock.step(minutes=6)
        assert run(forwarding_database, receiver) == 1
    clock.step(minutes=6)
    receiver.answer = lambda event_id: ACCEPTED
    run(forwarding_database, receiver)
    clock.step(hours=1)
    run(forwarding_database, receiver)
    assert states(forwarding_database) == {"delivered": len(ids)}


def test_events_that_a_living_receiver_refuses_keep_no_other_one_waiting(
    forwarding_database: Database, clock: Clock, settings: Settings
) -> None:
    add_events(forwarding_database, 2 * outbox.CHUNK)
    (wanted,) = add_events(forwarding_database, 1)
    receiver = Receiver(lambda event_id: ACCEPTED if event_id == wanted else REFUSED)
    for _ in range(3):
        run(forwarding_database, receiver)
        clock.step(seconds=3)
    assert wanted in receiver.ids
    assert states(forwarding_database)["delivered"] == 1


def test_a_receiver_that_refuses_everything_for_a_day_is_paused_too(
    forwarding_database: Database, clock: Clock, settings: Settings
) -> None:
    add_events(forwarding_database, 3)
    receiver = Receiver(lambda event_id: REFUSED)
    assert (run(forwarding_database, receiver), run(forwarding_database, receiver)) == (3, 0)
    assert standing(forwarding_database, settings)["state"] == "failing"
    fail_for(forwarding_database, clock, receiver, 33)
    assert standing(forwarding_database, settings)["state"] == "paused"


def fail_for(database: Database, clock: Clock, receiver: Receiver, hours: int) -> None:
    for _ in range(hours * 12):
        run(database, receiver)
        clock.step(minutes=5, seconds=1)


def test_a_day_of_failures_pauses_and_a_person_resumes(
    forwarding_database: Database, clock: Clock, settings: Settings
) -> None:
    add_events(forwarding_database, 3)
    receiver = Receiver(lambda event_id: BROKEN)
    fail_for(forwarding_database, clock, receiver, 23)
    assert standing(forwarding_database, settings)["state"] == "failing"
    fail_for(forwarding_database, clock, receiver, 10)
    found = standing(forwarding_database, settings)
    assert (found["state"], found["counts"]) == ("paused", {"waiting": 3, "failed": 0})
    assert "503" in found["reason"]
    attempts = len(receiver.posted)
    clock.step(hours=30)
    assert run(forwarding_database, receiver) == 0
    receiver.answer = lambda event_id: ACCEPTED
    assert outbox.resume(forwarding_database)
    assert run(forwarding_database, receiver) == 3
    assert len(receiver.posted) == attempts + 3
    assert standing(forwarding_database, settings)["state"] == "on"


def test_a_clock_that_is_set_forward_is_no_day_of_failures(
    forwarding_database: Database, clock: Clock, settings: Settings
) -> None:
    if not forwarding_database.is_sqlite:
        pytest.skip("PostgreSQL's clock is the only one there")
    add_events(forwarding_database, 3)
    receiver = Receiver(lambda event_id: BROKEN)
    fail_for(forwarding_database, clock, receiver, 1)
    clock.set_wall(hours=25)
    fail_for(forwarding_database, clock, receiver, 1)
    found = standing(forwarding_database, settings)
    assert found["state"] == "failing"
    with forwarding_database.read() as connection:
        failing_for = wall_clock(connection) - datetime.fromisoformat(found["failing_since"])
    assert timedelta(hours=1) < failing_for < timedelta(hours=4)


def test_one_event_that_nobody_takes_does_not_pause_the_rest(
    forwarding_database: Database, clock: Clock, settings: Settings
) -> None:
    add_events(forwarding_database, 1)
    fail_for(forwarding_database, clock, Receiver(lambda event_id: BROKEN), 40)
    assert standing(forwarding_database, settings)["state"] == "failing"


def test_410_pauses_at_once_and_another_url_resumes(
    forwarding_database: Database, settings: Settings
) -> None:
    add_events(forwarding_database, 1)
    gone, other = Receiver(lambda event_id: GONE), Receiver()
    run(forwarding_database, gone)
    found = standing(forwarding_database, settings)
    assert (found["state"], "410" in found["reason"]) == ("paused", True)
    assert run(forwarding_database, gone) == 0
    elsewhere = "https://new.example.org"
    assert standing(forwarding_database, settings, elsewhere)["state"] == "on"
    outbox.resend(forwarding_database, gone.ids[0])
    assert run(forwarding_database, other, elsewhere) == 1


def test_the_view_names_the_receiver_without_its_secret_path(
    forwarding_database: Database, settings: Settings
) -> None:
    ids = add_events(forwarding_database, 3)
    shown = standing(forwarding_database, settings)
    assert shown["receiver"] == "https://crm.example.org"
    assert "hidden" not in json.dumps(shown)
    assert [item["id"] for item in shown["items"]] == list(reversed(ids))
    assert show_forwarding(settings, forwarding_database)["state"] == "off"


def test_the_log_is_read_by_pages_and_by_state(forwarding_database: Database, settings: Settings) -> None:
    ids = add_events(forwarding_database, 5)
    run(forwarding_database, Receiver(lambda event_id: ACCEPTED if event_id in ids[:2] else BROKEN))
    first = show_forwarding(settings, forwarding_database, "waiting", limit=2)
    second = show_forwarding(settings, forwarding_database, "waiting", first["next_cursor"], limit=2)
    assert [item["id"] for item in (*first["items"], *second["items"])] == list(reversed(ids[2:]))
    assert second["next_cursor"] is None
    assert {
        item["id"] for item in show_forwarding(settings, forwarding_database, "delivered")["items"]
    } == set(ids[:2])


def test_what_was_delivered_is_forgotten_after_a_week_and_the_rest_with_the_numbers(
    forwarding_database: Database, clock: Clock, settings: Settings
) -> None:
    ids = add_events(forwarding_database, 2)
    run(forwarding_database, Receiver(lambda event_id: ACCEPTED if event_id == ids[0] else BROKEN))
    clock.step(days=6)
    sweep.sweep(forwarding_database, settings)
    assert count(forwarding_database, tables.forward_events) == 2
    clock.step(days=2)
    sweep.sweep(forwarding_database, settings)
    assert [row.event_id for row in every(forwarding_database, tables.forward_events)] == ids[1:]
    clock.step(days=90)
    sweep.sweep(forwarding_database, settings)
    assert every(forwarding_database, tables.forward_events) == []


def test_a_clock_that_was_set_back_does_not_stop_the_lane(
    forwarding_database: Database, clock: Clock
) -> None:
    add_events(forwarding_database, 1)
    run(forwarding_database, Receiver(lambda event_id: BROKEN))
    (row,) = every(forwarding_database, tables.forward_state)
    change(
        forwarding_database, tables.forward_state, row.id, next_post_at=row.next_post_at + timedelta(hours=5)
    )
    clock.step(minutes=1)
    assert run(forwarding_database, Receiver()) == 1
