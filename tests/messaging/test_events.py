from __future__ import annotations

from messaging import events
from messaging.database import Database
from messaging.models import message_events
from tests.support.delivery import every, phones, queue


def test_events_are_written_in_the_order_they_happened(database: Database) -> None:
    ids = queue(database, *phones(3))
    with database.write() as connection:
        now = database.now(connection)
        events.record(connection, [events.Event(one, now, "expired", "sweep", 7, "late") for one in ids])
    found = every(database, message_events)
    assert [row.message_id for row in found] == ids
    assert (found[0].at, found[0].status, found[0].source) == (now, "expired", "sweep")
    assert (found[0].attempt_id, found[0].detail) == (7, "late")


def test_more_events_than_one_chunk_all_arrive(database: Database) -> None:
    (one,) = queue(database, *phones(1))
    many = events.CHUNK * 2 + 1
    with database.write() as connection:
        now = database.now(connection)
        events.record(connection, (events.Event(one, now, "queued", "provider") for _ in range(many)))
    assert len(every(database, message_events)) == many


def test_nothing_happened_writes_nothing(database: Database) -> None:
    with database.write() as connection:
        events.record(connection, [])
    assert every(database, message_events) == []
