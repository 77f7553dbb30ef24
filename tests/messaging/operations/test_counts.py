"""What `/metrics` counts, from the rows to the figure."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import event, insert

from messaging.costs.balance import Balance, keep
from messaging.messages import status_counts
from messaging.operations import counts
from messaging.operations.health import beat
from messaging.operations.metrics import Gauge, Gauges
from messaging.sending import due, start_post
from messaging.sending.sender import write_outcome
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.delivery import (
    Clock,
    begin_posting,
    change,
    claim_one,
    new_batch,
    phones,
    post,
    post_to,
    queue,
    queue_batch,
)
from tests.support.fake_provider import FakeProvider
from utils.errors import OutcomeUnknown
from utils.money import Money
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

DEADLINE = 10.0


def read(database: Database) -> dict[str, Gauge]:
    return {gauge.name: gauge for gauge in Gauges(database).read()}


@pytest.fixture
def counted(database: Database) -> Database:
    """In which counting has begun."""
    counts.fold(database)
    return database


def test_posts_are_counted_by_what_they_came_to(
    counted: Database, clock: Clock, fake_at: FakeProvider, client: ProviderClient
) -> None:
    post(counted, client, post_to(counted, *phones(2)), DEADLINE)
    write_outcome(counted, post_to(counted, *phones(1, first=3)), OutcomeUnknown(reason="read_timeout"))
    queue(counted, *phones(1, first=4))
    counts.fold(counted)
    assert read(counted)["sms_posts"].values == {"answered": 0}
    clock.step(minutes=2)
    counts.fold(counted)
    counts.fold(counted)
    found = read(counted)
    assert found["sms_posts"].values == {"answered": 1, "read_timeout": 1}
    assert found["sms_answer_seconds"].values["+Inf"] == 1
    assert (found["sms_answer_seconds"].sum or 0) > 0


def test_a_post_that_is_under_way_is_counted_when_it_has_ended(
    counted: Database, clock: Clock, fake_at: FakeProvider, client: ProviderClient
) -> None:
    first = post_to(counted, *phones(1))
    post(counted, client, post_to(counted, *phones(1, first=2)), DEADLINE)
    clock.step(minutes=2)
    counts.fold(counted)
    assert read(counted)["sms_posts"].values == {"answered": 0}
    post(counted, client, first, DEADLINE)
    counts.fold(counted)
    assert read(counted)["sms_posts"].values == {"answered": 2}


def test_what_was_given_back_is_no_post(counted: Database, clock: Clock) -> None:
    queue(counted, *phones(1))
    one = claim_one(counted)
    with counted.write() as connection:
        start_post.give_back(connection, one, wall_clock(connection))
    clock.step(minutes=2)
    counts.fold(counted)
    assert read(counted)["sms_posts"].values == {"answered": 0}


def test_posts_of_before_this_release_are_not_counted(
    database: Database, clock: Clock, fake_at: FakeProvider, client: ProviderClient
) -> None:
    post(database, client, post_to(database, *phones(1)), DEADLINE)
    clock.step(minutes=2)
    counts.fold(database)
    assert read(database)["sms_posts"].values == {"answered": 0}


def test_the_last_callback_of_each_kind_is_told(counted: Database) -> None:
    with counted.write() as connection:
        now = wall_clock(connection).replace(microsecond=0)
        for number, (kind, age) in enumerate([("report", 9), ("inbound", 60), ("report", 5)]):
            at = now - timedelta(seconds=age)
            row = {
                "kind": kind,
                "body": b"",
                "digest": bytes([number] * 16),
                "count": 1,
                "outcome": "applied",
            }
            connection.execute(insert(tables.callbacks).values(**row, received_at=at, last_seen_at=at))
    counts.fold(counted)
    counts.fold(counted)
    told = read(counted)["sms_last_callback_timestamp_seconds"].values
    assert told == {"inbound": now.timestamp() - 60, "report": now.timestamp() - 5}


def test_statuses_parts_and_costs_are_those_of_all_hours(database: Database) -> None:
    with database.write() as connection:
        tally = status_counts.Tally()
        for days in (0, 40):
            hour = status_counts.hour_of(wall_clock(connection) - timedelta(days=days))
            tally.add(status_counts.Counted(hour, "accepted", currency="KES"), 3, 4, 3_200_000)
            tally.add(status_counts.Counted(hour, "delivered", delay=2), 2)
            tally.add(status_counts.Counted(hour, "delivered", delay=len(status_counts.DELAYS) + 1), 1)
        status_counts.append(connection, tally)
    status_counts.fold(database)
    found = read(database)
    assert (found["sms_messages"].values["accepted"], found["sms_messages"].values["delivered"]) == (6, 6)
    assert found["sms_parts"].values == {"": 8}
    assert found["sms_cost"].values == {"KES": 6.4}
    steps = found["sms_delivery_seconds"].values
    assert (steps["1.0"], steps["2.0"], steps["259200.0"], steps["+Inf"]) == (0, 4, 4, 6)


def test_the_balance_is_what_was_heard_last_and_nobody_is_asked(database: Database) -> None:
    class Account:
        asked = 0

        def fetch_balance(self, *, deadline_seconds: float | None = None) -> Money:
            self.asked += 1
            return Money(Decimal("-12.50"), "KES")

    account = Account()
    balance = Balance(account, lambda money: keep(database, money))
    assert read(database)["sms_balance"].values == {}
    balance.read()
    balance.read()
    found = read(database)
    assert (found["sms_balance"].values, account.asked) == ({"KES": -12.5}, 1)
    assert set(found["sms_balance_timestamp_seconds"].values) == {"KES"}


def test_a_balance_that_cannot_be_kept_is_told_all_the_same() -> None:
    nowhere = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    keep(nowhere, Money(Decimal(1), "KES"))
    nowhere.close()


def test_each_worker_is_told_with_its_posts_in_flight(database: Database) -> None:
    beat(database, "sms-1:7:140234567890123")
    beat(database, "sms-1:7:140234567890124")
    queue(database, *phones(1))
    posting = begin_posting(database, claim_one(database))
    change(database, tables.attempts, posting.claim.attempt_id, worker="sms-2:9:140234567890123")
    found = read(database)
    assert set(found["sms_worker_last_seen_timestamp_seconds"].values) == {"sms-1:7"}
    assert found["sms_posts_in_flight"].values == {"sms-1:7": 0, "sms-2:9": 1}


def wait_of(database: Database) -> float:
    with database.read() as connection:
        return due.longest_wait(connection, wall_clock(connection)).total_seconds()


def test_the_oldest_text_that_may_go_is_found_wherever_it_waits(database: Database, clock: Clock) -> None:
    assert wait_of(database) == 0
    queue_batch(database, phones(2))
    clock.step(minutes=10)
    queue(database, *phones(1, first=9))
    assert 600 <= wait_of(database) < 660
    with database.write() as connection:
        connection.execute(tables.batches.update().values(status="paused"))
    assert 0 <= wait_of(database) < 60


def test_what_is_for_later_waits_for_nothing(database: Database, clock: Clock) -> None:
    with database.read() as connection:
        now = wall_clock(connection)
    queue(database, *phones(1), due_at=now + timedelta(hours=1))
    clock.step(minutes=30)
    assert wait_of(database) == 0
    clock.step(minutes=40)
    assert 600 <= wait_of(database) < 660


def test_no_scrape_groups_the_messages(database: Database) -> None:
    new_batch(database)
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    read(database)
    about_messages = [one for one in asked if "FROM messages" in one]
    assert about_messages
    assert [one for one in about_messages if "GROUP BY" in one or "status" not in one] == []
