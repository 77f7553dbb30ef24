from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from sqlalchemy import insert

from messaging.storage import sqlite_write_lock, tables
from messaging.storage.database import Database
from messaging.storage.sqlite_write_lock import SqliteWriteLock
from tests.support.delivery import count

WAIT_SECONDS = 20.0


def hold(path: Path, said: Connection) -> None:
    """In a process of its own: takes the lock, says so, and holds it until told to end."""
    with SqliteWriteLock(path).held():
        said.send("taken")
        said.recv()


@contextmanager
def another_process(path: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(path, theirs))
    process.start()
    try:
        assert ours.poll(WAIT_SECONDS)
        ours.recv()
        yield process, ours
    finally:
        process.kill()
        process.join()


@pytest.fixture(autouse=True)
def long_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody seems to get the lock who only gave up waiting."""
    monkeypatch.setattr(sqlite_write_lock, "TIMEOUT_SECONDS", 3 * WAIT_SECONDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sms.db-write-lock"


def take(lock: SqliteWriteLock) -> threading.Event:
    """A thread that takes the lock and sets what is returned."""
    taken = threading.Event()

    def run() -> None:
        with lock.held():
            taken.set()

    threading.Thread(target=run, daemon=True).start()
    return taken


def test_a_process_waits_until_another_releases_the_lock(path: Path) -> None:
    with another_process(path) as (_, other):
        taken = take(SqliteWriteLock(path))
        assert not taken.wait(0.2)
        other.send("end")
        assert taken.wait(WAIT_SECONDS)


def test_the_lock_of_a_process_that_is_killed_is_free_at_once(path: Path) -> None:
    with another_process(path) as (process, _):
        taken = take(SqliteWriteLock(path))
        assert not taken.wait(0.2)
        os.kill(process.pid or 0, signal.SIGKILL)
        assert taken.wait(WAIT_SECONDS)


def test_a_process_that_keeps_the_lock_stops_nobody_for_good(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_write_lock, "TIMEOUT_SECONDS", 0.2)
    with another_process(path) as (_, other):
        lock = SqliteWriteLock(path)
        assert take(lock).wait(WAIT_SECONDS)
        # Once is enough: what comes next does not wait for the one that stands still.
        monkeypatch.setattr(sqlite_write_lock, "TIMEOUT_SECONDS", 3 * WAIT_SECONDS)
        assert take(lock).wait(WAIT_SECONDS)
        other.send("end")


def test_without_its_file_there_is_no_order_but_work_goes_on(tmp_path: Path) -> None:
    assert take(SqliteWriteLock(tmp_path / "missing" / "sms.db-write-lock")).wait(WAIT_SECONDS)


def test_the_lock_is_released_when_the_work_under_it_fails(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), SqliteWriteLock(path).held():
        raise ZeroDivisionError
    assert take(SqliteWriteLock(path)).wait(WAIT_SECONDS)


def test_a_lock_that_was_closed_can_be_held_again_and_still_keeps_others_out(path: Path) -> None:
    lock = SqliteWriteLock(path)
    with lock.held():
        pass
    lock.close()
    with lock.held():
        other = take(SqliteWriteLock(path))
        assert not other.wait(0.2)
    assert other.wait(WAIT_SECONDS)


def test_a_database_writes_only_under_the_lock(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'sms.db'}")
    with database.write() as connection:
        tables.counters.create(connection)

    def add() -> None:
        with database.write() as connection:
            connection.execute(insert(tables.counters).values(name="other", value=1))

    thread = threading.Thread(target=add)
    with SqliteWriteLock(tmp_path / "sms.db-write-lock").held():
        thread.start()
        thread.join(0.2)
        assert count(database, tables.counters) == 0
    thread.join(WAIT_SECONDS)
    assert count(database, tables.counters) == 1
    database.close()
