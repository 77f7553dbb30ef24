from __future__ import annotations

from datetime import timedelta

import pytest

from messaging.messages import status_events
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.delivery import every, phones, queue


def test_events_are_written_in_the_order_they_happened(database: Database) -> None:
    ids = queue(database, *phones(3))
    with database.write() as connection:
        now = wall_clock(connection)
        status_events.record(
            connection, [status_events.Event(one, now, "expired", "sweep", 7, "late") for one in ids]
        )
    found = every(database, tables.message_events)
    assert [row.message_id for row in found] == ids
    assert (found[0].at, found[0].status, found[0].source) == (now, "expired", "sweep")
    assert (found[0].attempt_id, found[0].detail) == (7, "late")


def test_more_events_than_one_chunk_all_arrive(database: Database) -> None:
    (one,) = queue(database, *phones(1))
    many = status_events.CHUNK * 2 + 1
    with database.write() as connection:
        now = wall_clock(connection)
        status_events.record(
            connection, (status_events.Event(one, now, "queued", "provider") for _ in range(many))
        )
    assert len(every(database, tables.message_events)) == many


@pytest.mark.parametrize(
    "detail",
    [
        None,
        "",
        "null",
        "NULL",
        "a, b",
        "{a,b}",
        'he said "no"',
        "a\\nb",
        "a\nb\tc",
        "Hé 🎉 \u2028",
        "\x7f",
        "$[0]",
        "[1,2]",
        "12",
    ],
)
def test_whatever_the_provider_said_is_kept_as_it_was(database: Database, detail: str | None) -> None:
    (one,) = queue(database, *phones(1))
    with database.write() as connection:
        now = wall_clock(connection)
        said = [status_events.Event(one, now, "accepted", "provider", None, detail) for _ in range(2)]
        status_events.record(connection, said)
    assert [row.detail for row in every(database, tables.message_events)] == [detail, detail]


def test_events_of_several_times_keep_each_its_own(database: Database) -> None:
    (one,) = queue(database, *phones(1))
    with database.write() as connection:
        now = wall_clock(connection)
        times = [now, now + timedelta(seconds=1), now, now - timedelta(days=1)]
        status_events.record(connection, [status_events.Event(one, at, "queued", "provider") for at in times])
    assert [row.at for row in every(database, tables.message_events)] == times


def test_nothing_happened_writes_nothing(database: Database) -> None:
    with database.write() as connection:
        status_events.record(connection, [])
    assert every(database, tables.message_events) == []
