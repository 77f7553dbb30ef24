from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import StatementError

from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import every

NAIROBI = timezone(timedelta(hours=3))


def write_beat(database: Database, seen_at: datetime) -> None:
    with database.write() as connection:
        connection.execute(insert(tables.heartbeats).values(worker="w", seen_at=seen_at))


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 11, 24, 10, 0, 0, 123456, UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(2099, 1, 1, tzinfo=UTC),
    ],
)
def test_a_time_comes_back_to_the_microsecond(database: Database, at: datetime) -> None:
    write_beat(database, at)
    assert every(database, tables.heartbeats)[0].seen_at == at


def test_a_time_of_another_zone_comes_back_as_the_same_moment_in_utc(database: Database) -> None:
    write_beat(database, datetime(2026, 11, 24, 13, 0, tzinfo=NAIROBI))
    found = every(database, tables.heartbeats)[0].seen_at
    assert found == datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
    assert found.utcoffset() == timedelta(0)


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises((StatementError, ValueError)):
        write_beat(database, datetime(2026, 11, 24, 10, 0))  # noqa: DTZ001


def test_times_compare_in_the_store_as_they_do_in_python(database: Database) -> None:
    at = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
    write_beat(database, at)
    with database.read() as connection:
        before = select(tables.heartbeats).where(tables.heartbeats.c.seen_at < at + timedelta(microseconds=1))
        assert connection.execute(before).one()
        assert (
            connection.execute(select(tables.heartbeats).where(tables.heartbeats.c.seen_at < at)).all() == []
        )


def test_sqlite_keeps_a_time_as_whole_microseconds(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL has a type for times")
    write_beat(database, datetime(1970, 1, 1, 0, 0, 1, 5, UTC))
    with database.read() as connection:
        assert connection.execute(text("SELECT seen_at FROM heartbeats")).scalar_one() == 1_000_005
