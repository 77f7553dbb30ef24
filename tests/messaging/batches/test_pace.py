"""How fast a batch leaves, as its own texts of the last minute tell."""

from __future__ import annotations

from datetime import timedelta

import pytest

from messaging.batches.pace import NEWEST_EVENTS, Pace, paces
from messaging.batches.progress import get_batch
from messaging.messages import status_events
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support import delivery


def leaves(database: Database, *ids: int, seconds_ago: float, source: str = "provider") -> None:
    with database.write() as connection:
        at = wall_clock(connection) - timedelta(seconds=seconds_ago)
        events = [status_events.Event(one, at, "accepted", source) for one in ids]
        status_events.record(connection, events)
    for one in ids:
        delivery.change(database, tables.messages, one, status="accepted")


def pace_of(database: Database, batch_id: int) -> Pace | None:
    return paces(database, [get_batch(database, batch_id)]).get(batch_id)


def test_the_speed_is_that_of_the_batchs_own_texts_within_the_last_minute(database: Database) -> None:
    batch = delivery.queue_batch(database, delivery.phones(40))
    other = delivery.queue_batch(database, delivery.phones(4, first=100))
    leaves(database, *range(1, 11), seconds_ago=300)
    leaves(database, *range(11, 16), seconds_ago=30)
    leaves(database, *range(16, 21), seconds_ago=1)
    leaves(database, 41, seconds_ago=20)
    found = pace_of(database, batch)
    assert found is not None
    assert found.seconds_left is not None
    assert found.per_minute == pytest.approx(20, abs=1)
    assert found.seconds_left == pytest.approx(60, abs=3)
    both = paces(database, [get_batch(database, one) for one in (batch, other)])
    assert set(both) == {batch, other}


def test_what_nobody_can_know_is_not_told(database: Database) -> None:
    batch = delivery.queue_batch(database, delivery.phones(10))
    assert pace_of(database, batch) is None
    # One POST a moment ago tells no speed; what left before the minute, and what reports say, tell none of now.
    leaves(database, 1, 2, seconds_ago=0.5)
    assert pace_of(database, batch) is None
    leaves(database, 3, seconds_ago=120)
    leaves(database, 4, seconds_ago=10, source="report")
    for one in delivery.every(database, tables.message_events):
        if one.source == "provider":
            delivery.change(database, tables.message_events, one.id, at=_minutes_ago(database, 5))
    assert pace_of(database, batch) is None
    leaves(database, 5, seconds_ago=10)
    assert pace_of(database, batch) is not None
    delivery.change(database, tables.batches, batch, status="paused")
    assert pace_of(database, batch) is None


def test_what_waits_for_its_hour_is_not_among_what_is_left(database: Database) -> None:
    batch = delivery.queue_batch(database, delivery.phones(4))
    leaves(database, 1, seconds_ago=10)
    later = _minutes_ago(database, -60)
    delivery.change(database, tables.messages, 4, due_at=later, due_by_wall=True)
    found = pace_of(database, batch)
    assert found is not None
    assert found.seconds_left == pytest.approx(20, abs=2)
    for one in (2, 3):
        delivery.change(database, tables.messages, one, due_at=later, due_by_wall=True)
    found = pace_of(database, batch)
    assert found is not None
    assert found.seconds_left is None


def test_only_the_newest_rows_of_the_histories_are_read(database: Database) -> None:
    batch = delivery.queue_batch(database, delivery.phones(3))
    leaves(database, 1, seconds_ago=20)
    (other,) = delivery.queue(database, delivery.phone(9))
    leaves(database, *[other] * NEWEST_EVENTS, seconds_ago=5)
    assert pace_of(database, batch) is None


def _minutes_ago(database: Database, minutes: float) -> object:
    with database.read() as connection:
        return wall_clock(connection) - timedelta(minutes=minutes)
