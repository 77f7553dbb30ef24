"""Steady time itself: what a step, a reboot and a second process do to it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from messaging.storage import clocks, tables
from messaging.storage.clocks import by_boot_clock, last_step, steady, wall_clock
from messaging.storage.database import Database
from tests.support.delivery import Clock, every

pytest_plugins = ["tests.support.delivery_fixtures"]
BLINK = timedelta(seconds=5)


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The machine is another one, or has been started anew."""
    return lambda boot_id: monkeypatch.setattr(clocks, "current_boot_id", lambda: boot_id)


def both(database: Database) -> tuple[datetime, datetime]:
    """The wall clock, and the same moment by the boot clock."""
    with database.read() as connection:
        now = wall_clock(connection)
        return now, by_boot_clock(connection, now)


def ahead(database: Database) -> timedelta:
    wall, by_boot = both(database)
    return by_boot - wall


def restarted(database: Database) -> Database:
    """As another process sees the same database."""
    other = Database(database.engine.url.render_as_string(hide_password=False))
    other.clocks.wall, other.clocks.boot = database.clocks.wall, database.clocks.boot
    return other


def test_without_a_step_both_clocks_say_the_same(database: Database, clock: Clock) -> None:
    clock.look()
    clock.step(days=3)
    assert ahead(database) == timedelta()


@pytest.mark.parametrize("hours", [-2, 2, 25])
def test_a_step_changes_the_wall_clock_only(database: Database, clock: Clock, hours: int) -> None:
    clock.look()
    _, before = both(database)
    clock.set_wall(hours=hours)
    wall, after = both(database)
    # It goes on where it was last looked at, which is a moment before it was read here.
    assert abs(after - before) < BLINK
    assert abs(wall - after - timedelta(hours=hours)) < BLINK


def test_time_goes_on_by_both_clocks_after_a_step(database: Database, clock: Clock) -> None:
    clock.set_wall(hours=-2)
    wall, by_boot = both(database)
    clock.step(minutes=10)
    later, by_boot_later = both(database)
    assert abs(later - wall - timedelta(minutes=10)) < BLINK
    assert abs(by_boot_later - by_boot - timedelta(minutes=10)) < BLINK


def test_another_process_reads_the_same_time(database: Database, clock: Clock) -> None:
    clock.set_wall(hours=-2)
    other = restarted(database)
    assert abs(ahead(other) - ahead(database)) < BLINK
    other.close()


def test_a_pooled_connection_measures_anew_in_each_transaction(database: Database, clock: Clock) -> None:
    clock.look()
    wall, by_boot = both(database)
    clock.set_wall(hours=-2)
    with database.read() as connection:
        found = by_boot_clock(connection, wall - timedelta(hours=2))
    assert abs(found - by_boot) < BLINK


def test_postgresql_gives_leases_its_own_clock(database: Database, clock: Clock) -> None:
    """They are shared by machines, whose boot clocks know nothing of each other."""
    clock.set_wall(hours=-2)
    with database.read() as connection:
        now = wall_clock(connection)
        expected = by_boot_clock(connection, now) if database.is_sqlite else now
        assert steady(connection, now) == expected


@pytest.mark.parametrize("hours", [-2, 25])
def test_after_a_reboot_steady_time_goes_on(
    database: Database, clock: Clock, boots: Callable[[str], None], hours: int
) -> None:
    clock.set_wall(hours=hours)
    clock.look()
    _, before = both(database)
    boots("after the reboot")
    clock.step(minutes=5)
    other = restarted(database)
    _, unseen = both(other)
    with other.write() as connection:
        other.clocks.look(connection)
    _, after = both(other)
    other.close()
    for found in (unseen, after):
        assert abs(found - before - timedelta(minutes=5)) < BLINK


def test_a_machine_that_starts_with_an_old_clock_does_not_go_back(
    database: Database, clock: Clock, boots: Callable[[str], None]
) -> None:
    """A machine without a battery for its clock begins in 1970, or where it was switched off."""
    clock.look()
    _, before = both(database)
    boots("after the reboot")
    clock._wall_shift -= timedelta(days=300)
    other = restarted(database)
    with other.write() as connection:
        other.clocks.look(connection)
    _, after = both(other)
    other.close()
    # It goes on where it was last looked at, which is a moment before it was read here.
    assert abs(after - before) < BLINK


def test_a_boot_clock_that_is_younger_than_its_anchor_is_another_one(
    database: Database, clock: Clock
) -> None:
    """A machine that was restored from a snapshot keeps its boot id."""
    clock.look()
    _, before = both(database)
    clock._boot_shift -= timedelta(seconds=database.clocks.boot() - 1)
    other = restarted(database)
    with other.write() as connection:
        other.clocks.look(connection)
    _, after = both(other)
    other.close()
    # It goes on where it was last looked at, which is a moment before it was read here.
    assert abs(after - before) < BLINK


def test_without_a_boot_clock_there_is_only_the_wall_clock(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "current_boot_id", lambda: None)
    clock.set_wall(hours=-2)
    assert ahead(database) == timedelta()
    assert every(database, tables.clock_anchors) == []


@pytest.mark.parametrize("seconds", [-7200, 61, 90_000])
def test_a_step_of_over_a_minute_is_logged_once_and_kept(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture, seconds: int
) -> None:
    clock.set_wall(seconds=seconds)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clock.look()
            clock.step(seconds=5)
    told = [record for record in caplog.records if record.message == "the clock was set"]
    assert [abs(record.__dict__["seconds"] - seconds) < 5 for record in told] == [True]
    with database.read() as connection:
        step = last_step(connection)
    assert step is not None
    assert abs(step.by - timedelta(seconds=seconds)) < BLINK


def test_a_small_step_is_not(database: Database, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    clock.set_wall(seconds=50)
    with caplog.at_level(logging.WARNING):
        clock.look()
    assert caplog.records == []
    with database.read() as connection:
        assert last_step(connection) is None


def test_a_process_that_stood_still_between_two_readings_sees_no_step(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.look()
    wall = database.clocks.wall

    def slow(connection: object) -> datetime:
        read = wall(connection)  # type: ignore[arg-type]
        clock.step(minutes=5)
        return read

    database.clocks.wall = slow
    with caplog.at_level(logging.WARNING):
        clock.look()
        database.clocks.wall = wall
        clock.look()
    assert caplog.records == []


def test_machines_that_are_gone_are_forgotten(
    database: Database, clock: Clock, boots: Callable[[str], None]
) -> None:
    for number in range(3):
        boots(f"machine {number}")
        clock.look()
        clock.step(days=20)
    assert [row.boot_id for row in every(database, tables.clock_anchors)] == ["machine 1", "machine 2"]
