"""A machine whose clock is set: what waits, leaves and ends in due time, and dates are kept by the new clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO

import pytest
from sqlalchemy import Connection, update

from messaging.batches import importer, upload, upload_store
from messaging.batches.upload import BatchRequest
from messaging.conversations import handler_runner
from messaging.forwarding import outbox, receiver_state
from messaging.messages import idempotency, status_events
from messaging.messages.accept import SendRequest, accept
from messaging.operations import doctor, health, sweep
from messaging.operations.doctor import Finding
from messaging.sending import circuit_breaker, due, last_check, pauses, retry_policy
from messaging.sending.claim import ClaimLimits
from messaging.sending.sending_hours import SendingWindows
from messaging.service import Service
from messaging.storage import clocks, tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.delivery import LEASE, Clock, claim, claim_one, in_write, message, phone, phones, queue
from utils.errors import OutcomeUnknown, ProviderThrottled
from utils.settings import Settings

pytest_plugins = ["tests.support.delivery_fixtures"]

PAST_LEASE = LEASE.total_seconds() + 1
STEPS = pytest.mark.parametrize("hours", [-2, 2, 25])
SetClock = Callable[[float], None]


@pytest.fixture
def set_clock(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets this machine's clock, by hours. PostgreSQL has its own, on which nobody has a hand."""
    utc_now = clocks.utc_now

    def set_clock(hours: float) -> None:
        if database.is_sqlite:
            clock.set_wall(hours=hours)
        else:
            shifted = utc_now() + timedelta(hours=hours) - utc_now()
            monkeypatch.setattr(clocks, "utc_now", lambda: utc_now() + shifted)

    return set_clock


@pytest.fixture
def set_own_clock(clock: Clock) -> SetClock:
    """Sets the clock that the dates of the database go by: PostgreSQL's own, else this machine's."""
    return lambda hours: clock.set_wall(hours=hours)


@STEPS
def test_what_is_queued_leaves_at_once(database: Database, set_clock: SetClock, hours: int) -> None:
    (single,) = queue(database, phone(1))
    delivery.queue_batch(database, phones(3, first=2))
    set_clock(hours)
    assert due.has_due(database)
    taken = claim(database)
    assert sum(len(one.recipients) for one in taken) == 4
    assert taken[0].recipients == {phone(1): single}


@STEPS
def test_a_backoff_ends_when_its_time_has_passed_not_sooner_and_not_later(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    posting = delivery.post_to(database, phone(1))
    delivery.write_outcome(database, posting, ProviderThrottled(reason="throttled", http_status=429))
    set_clock(hours)
    assert not due.has_due(database)
    clock.step(seconds=2 * retry_policy.FIRST_WAIT.total_seconds() + 1)
    assert claim_one(database).recipients.keys() == {phone(1)}


@STEPS
def test_a_claim_whose_worker_died_is_given_back_when_its_lease_has_passed(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    queue(database, *phones(2))
    claim_one(database)
    set_clock(hours)
    assert sweep.sweep_expired_leases(database) == (0, 0)
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (2, 0)
    assert len(claim_one(database).recipients) == 2


@STEPS
def test_a_post_whose_worker_died_is_unknown_when_its_lease_has_passed(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    delivery.post_to(database, phone(1))
    set_clock(hours)
    assert sweep.sweep_expired_leases(database) == (0, 0)
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (0, 1)


@STEPS
def test_a_living_claim_is_posted_after_a_step_and_a_dead_one_is_not(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    queue(database, phone(1), text="one")
    queue(database, phone(2), text="two")
    first, second = claim(database)
    set_clock(hours)
    delivery.begin_posting(database, first)
    clock.step(seconds=PAST_LEASE)
    assert delivery.begin(database, second) == last_check.Released("lease_ended")


@STEPS
def test_the_break_that_at_asked_for_is_kept_and_ends(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    error = ProviderThrottled(reason="throttled", http_status=429, retry_after=1200.0)
    delivery.write_outcome(database, delivery.post_to(database, phone(1)), error)
    queue(database, phone(2))
    set_clock(hours)
    assert claim(database) == []
    clock.step(minutes=19)
    assert claim(database) == []
    clock.step(minutes=2)
    assert len(claim(database)) >= 1


@STEPS
def test_an_outage_makes_the_steps_of_the_breaker_longer_after_a_step_too(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    """A breaker that took its own opening for the future would lose a text every few seconds, for hours."""
    queue(database, *phones(6))
    steps = []
    for number in range(6):
        (one,) = claim(database, recipients=1, posts=1)
        posting = delivery.begin_posting(database, one)
        delivery.write_outcome(database, posting, OutcomeUnknown(reason="timed_out"))
        steps.append(in_write(database, circuit_breaker.current).step)
        if number == 0:
            set_clock(hours)
        clock.step(minutes=6)
    assert steps == [1, 2, 3, 4, 5, 6]


@STEPS
def test_a_paused_account_is_probed_each_minute(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    in_write(database, lambda connection, now: pauses.pause(connection, "account", "why", None, now))
    set_clock(hours)
    assert not pauses.take_probe(database)
    clock.step(seconds=61)
    assert [pauses.take_probe(database) for _ in range(2)] == [True, False]


@STEPS
def test_a_worker_is_seen_while_it_beats_and_missed_when_it_does_not(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    health.beat(database, "worker")
    set_clock(hours)
    assert health.is_worker_alive(database)
    clock.step(seconds=health.ALIVE_WITHIN.total_seconds() + 1)
    assert not health.is_worker_alive(database)
    health.beat(database, "worker")
    assert health.is_worker_alive(database)


@pytest.mark.parametrize("hours", [-2, 2])
def test_what_is_scheduled_goes_by_the_wall_clock(
    database: Database, settings: Settings, clock: Clock, set_own_clock: SetClock, hours: int
) -> None:
    """Set back by two hours, it leaves two hours later; set forward, two hours sooner."""
    send_at = in_write(database, lambda _connection, now: now + timedelta(hours=3))
    accept(settings, database, SendRequest([phone(1)], "Later", send_at=send_at))
    set_own_clock(hours)
    clock.step(hours=3 - hours, minutes=-1)
    assert claim(database) == []
    clock.step(minutes=2)
    assert claim_one(database).recipients.keys() == {phone(1)}


def test_rows_of_a_file_that_was_scheduled_go_by_the_wall_clock(
    database: Database, settings: Settings, clock: Clock, set_own_clock: SetClock
) -> None:
    send_at = in_write(database, lambda _connection, now: now + timedelta(hours=1))
    take_in(settings, database, send_at=send_at)
    importer.import_next(database, settings, lambda: False)
    set_own_clock(-2)
    clock.step(hours=2, minutes=59)
    assert claim(database) == []
    clock.step(minutes=2)
    assert len(claim_one(database).recipients) == 2


def test_sending_hours_go_by_the_wall_clock(
    database: Database, clock: Clock, set_own_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(database, phone(1), sender_id="ACME")
    opening = in_write(database, lambda _connection, now: now + timedelta(hours=3))
    limits = ClaimLimits(500, LEASE, windows=SendingWindows.of({"acme": "promotional"}))
    with monkeypatch.context() as patch:
        patch.setattr("messaging.sending.sending_hours.Window.is_open", lambda _window, _now: False)
        patch.setattr("messaging.sending.sending_hours.Window.next_opening", lambda _window, _now: opening)
        assert delivery.claim_as(database, "worker", limits) == []
    set_own_clock(-2)
    clock.step(hours=4, minutes=59)
    assert claim(database) == []
    clock.step(minutes=2)
    assert len(claim(database)) == 1


def test_a_wait_after_a_curfew_is_a_duration_again(database: Database, clock: Clock) -> None:
    """The row remembers which clock it waits for, each time anew."""
    (one,) = queue(database, phone(1), due_at=in_write(database, lambda _connection, now: now))
    assert message(database, one).due_by_wall
    posting = delivery.begin_posting(database, claim_one(database))
    delivery.write_outcome(database, posting, ProviderThrottled(reason="throttled", http_status=429))
    assert not message(database, one).due_by_wall


def test_history_goes_by_the_wall_clock(database: Database, set_own_clock: SetClock) -> None:
    (before,) = queue(database, phone(1))
    set_own_clock(-2)
    (after,) = queue(database, phone(2))
    went_back = message(database, before).created_at - message(database, after).created_at
    assert abs(went_back - timedelta(hours=2)) < timedelta(minutes=1)


def send_with_key(settings: Settings, database: Database) -> int:
    acceptance = accept(settings, database, SendRequest([phone(1)], "Once"), "a key")
    return int(acceptance.body["messages"][0]["id"])


def forget_keys(database: Database) -> int:
    return int(in_write(database, idempotency.forget_old))


@pytest.mark.parametrize("hours", [25, -25, 24 * 365])
def test_a_key_outlives_a_step_of_the_clock(
    database: Database, settings: Settings, clock: Clock, set_own_clock: SetClock, hours: int
) -> None:
    clock.look()
    first = send_with_key(settings, database)
    set_own_clock(hours)
    clock.step(hours=23)
    assert forget_keys(database) == 0
    assert send_with_key(settings, database) == first
    assert delivery.count(database, tables.messages) == 1


def test_a_key_is_forgotten_a_day_later_by_both_clocks(
    database: Database, settings: Settings, clock: Clock, set_own_clock: SetClock
) -> None:
    clock.look()
    send_with_key(settings, database)
    set_own_clock(-2)
    clock.step(hours=25)
    assert forget_keys(database) == 0
    clock.step(hours=2)
    # That of the acceptance itself is among them on PostgreSQL.
    assert forget_keys(database) >= 1


def test_a_key_of_before_the_upgrade_is_kept_for_its_day(
    database: Database, settings: Settings, clock: Clock
) -> None:
    clock.look()
    first = send_with_key(settings, database)
    with database.write() as connection:
        connection.execute(update(tables.idempotency_keys).values(steady_at=None))
    clock.step(hours=23)
    assert forget_keys(database) == 0
    assert send_with_key(settings, database) == first
    clock.step(hours=2)
    assert forget_keys(database) >= 1


def take_in(settings: Settings, database: Database, send_at: datetime | None = None) -> int:
    rows = "".join(f"{one}\n" for one in phones(2))
    request = BatchRequest("Bulk", send_at=send_at)
    acceptance = upload.receive(settings, database, request, BytesIO(f"phone\n{rows}".encode()))
    return int(acceptance.body["id"])


@STEPS
def test_a_file_whose_importer_died_is_taken_over_in_due_time(
    database: Database, settings: Settings, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    take_in(settings, database)
    assert importer._take(database) is not None
    set_clock(hours)
    assert not importer.import_next(database, settings, lambda: False)
    clock.step(seconds=importer.IMPORTER_LOST_AFTER.total_seconds() + 1)
    assert importer.import_next(database, settings, lambda: False)


def test_an_upload_under_way_is_not_forgotten(database: Database, set_clock: SetClock) -> None:
    upload_store.store(database, iter([b"phone\n"]))
    set_clock(25)
    assert upload_store.forget_abandoned(database) == 0


@STEPS
def test_an_event_that_was_not_accepted_is_tried_again_in_due_time(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    database.forwards = True
    receiver = receiver_state.receiver_of("https://crm.example.org/")
    queue(database, phone(1))
    with database.write() as connection:
        cancel_message(connection, database)
    outbox.claim(database, receiver)
    set_clock(hours)
    assert outbox.claim(database, receiver) == []
    clock.step(seconds=outbox.LEASE.total_seconds() + 1)
    assert len(outbox.claim(database, receiver)) == 1


def cancel_message(connection: Connection, database: Database) -> None:
    status_events.settle(connection, [1], "cancelled", "by_hand", wall_clock(connection))


@STEPS
def test_a_text_whose_handler_died_is_due_again_in_due_time(
    database: Database, clock: Clock, set_clock: SetClock, hours: int
) -> None:
    inbound_id = add_waiting_text(database)
    lease = timedelta(seconds=30)
    assert [job.id for job in handler_runner.claim(database, lease, 10)] == [inbound_id]
    set_clock(hours)
    assert handler_runner.claim(database, lease, 10) == []
    clock.step(seconds=31)
    assert [job.id for job in handler_runner.claim(database, lease, 10)] == [inbound_id]


def add_waiting_text(database: Database) -> int:
    with database.write() as connection:
        now = wall_clock(connection)
        row = {"id": 1, "provider_inbound_id": "in-1", "sender": phone(1), "recipient": "20880"}
        row |= {"text": "x", "meaning": "message", "received_at": now, "reply_outcome": "waiting"}
        connection.execute(tables.inbound_messages.insert().values(**row, reply_due_at=now))
    return 1


def clock_line(service: Service) -> Finding:
    return doctor._clock(service)


@pytest.fixture
def service(settings: Settings, database: Database) -> Service:
    service = Service(settings)
    service.database = database
    return service


@pytest.mark.parametrize(("hours", "word"), [(-2, "back by 7"), (25, "forward by 9")])
def test_the_doctor_tells_of_a_step_for_a_day(
    service: Service, clock: Clock, set_own_clock: SetClock, hours: int, word: str
) -> None:
    well = clock_line(service)
    assert well.is_well
    assert "never" in well.says
    set_own_clock(hours)
    ill = clock_line(service)
    assert not ill.is_well
    assert word in ill.says
    clock.step(hours=25)
    old = clock_line(service)
    assert old.is_well
    assert word in old.says


def test_the_doctor_tells_of_a_machine_without_a_boot_clock(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messaging.storage.clocks.current_boot_id", lambda: None)
    assert "no boot clock" in clock_line(service).says
