from __future__ import annotations

from messaging.operations import health, sweep
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import Clock, every
from utils.settings import Settings

pytest_plugins = ["tests.support.delivery_fixtures"]


def test_no_worker_was_ever_seen(database: Database) -> None:
    assert not health.is_worker_alive(database)


def test_a_worker_that_beat_is_alive_until_its_beats_stop(database: Database, clock: Clock) -> None:
    health.beat(database, "a")
    assert health.is_worker_alive(database)
    clock.step(seconds=health.ALIVE_WITHIN.total_seconds() + 1)
    assert not health.is_worker_alive(database)


def test_one_living_worker_is_enough(database: Database, clock: Clock) -> None:
    health.beat(database, "a")
    clock.step(hours=1)
    health.beat(database, "b")
    assert health.is_worker_alive(database)


def test_a_worker_has_one_row_however_often_it_beats(database: Database, clock: Clock) -> None:
    health.beat(database, "a")
    before = every(database, tables.heartbeats)[0].seen_at
    clock.step(seconds=5)
    health.beat(database, "a")
    (row,) = every(database, tables.heartbeats)
    assert row.seen_at > before


def test_a_sweep_forgets_workers_that_are_long_gone(
    database: Database, settings: Settings, clock: Clock
) -> None:
    health.beat(database, "old")
    clock.step(days=2)
    health.beat(database, "new")
    sweep.sweep(database, settings)
    assert [row.worker for row in every(database, tables.heartbeats)] == ["new"]
