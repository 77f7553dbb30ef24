from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError

from messaging.storage import tables
from messaging.storage.clocks import utc_now, wall_clock
from messaging.storage.database import (
    Database,
    after_commit,
    lock_keys,
    savepoint,
    wake_after_commit,
)
from messaging.storage.new_ids import reserve_ids
from tests.support.delivery import count, every, phones, queue
from utils.logs import LogHandler

TIMEOUT_SECONDS = 10.0


class Interrupted(Exception):
    """Whatever ends a transaction in its middle."""


def add_counter(database: Database, name: str) -> None:
    with database.write() as connection:
        connection.execute(insert(tables.counters).values(name=name, value=1))


def test_a_write_is_one_transaction(database: Database) -> None:
    with suppress(Interrupted), database.write() as connection:
        connection.execute(insert(tables.counters).values(name="a", value=1))
        raise Interrupted
    assert count(database, tables.counters) == 0


def test_a_read_sees_what_was_committed_before_it(database: Database) -> None:
    add_counter(database, "a")
    assert count(database, tables.counters) == 1


def test_a_command_that_ends_leaves_a_running_process_its_log(empty_sqlite: Path, tmp_path: Path) -> None:
    """SQLite takes its log away with the last connection, which it knows by the locks of all processes."""
    path = shutil.copy(empty_sqlite, tmp_path / "sms.db")
    look = (
        f"import sqlite3; c = sqlite3.connect({str(path)!r}); print(*c.execute('SELECT name FROM counters'))"
    )
    command = [sys.executable, "-c", f"{look}; c.close()"]
    database = Database(f"sqlite:///{path}")
    with database.engine.connect(), database.engine.connect():
        add_counter(database, "a")
    subprocess.run(command, check=True, timeout=TIMEOUT_SECONDS)
    add_counter(database, "b")
    found = subprocess.run(command, check=True, timeout=TIMEOUT_SECONDS, capture_output=True, text=True)
    database.close()
    assert found.stdout.split() == ["('a',)", "('b',)"]


def test_a_commit_that_asked_for_it_wakes_the_worker_once_and_afterwards(database: Database) -> None:
    seen: list[int] = []
    database.wake = lambda: seen.append(count(database, tables.counters))
    with database.write() as connection:
        connection.execute(insert(tables.counters).values(name="a", value=1))
        wake_after_commit(connection)
        wake_after_commit(connection)
        assert seen == []
    assert seen == [1]


def test_a_commit_that_did_not_ask_wakes_nobody_though_an_earlier_one_did(database: Database) -> None:
    woken: list[None] = []
    database.wake = lambda: woken.append(None)
    with database.write() as connection:
        wake_after_commit(connection)
    add_counter(database, "a")
    assert len(woken) == 1


def test_a_rollback_wakes_nobody_then_or_later(database: Database) -> None:
    woken: list[None] = []
    database.wake = lambda: woken.append(None)
    with suppress(Interrupted), database.write() as connection:
        wake_after_commit(connection)
        raise Interrupted
    add_counter(database, "a")
    assert woken == []


def test_what_is_done_after_a_commit_is_left_out_where_its_savepoint_is_rolled_back(
    database: Database,
) -> None:
    done: list[str] = []

    def note(connection: Connection, *names: str) -> None:
        for name in names:
            after_commit(connection, partial(done.append, name))

    with database.write() as connection:
        note(connection, "before")
        with suppress(Interrupted), savepoint(connection):
            note(connection, "outer")
            with savepoint(connection):
                note(connection, "inner")
            raise Interrupted
        with savepoint(connection):
            note(connection, "kept")
            with savepoint(connection) as tried:
                note(connection, "only tried")
                tried.rollback()
        note(connection, "after")
        assert done == []
    assert done == ["before", "kept", "after"]


@pytest.mark.parametrize("error", [None, Interrupted])
def test_a_read_has_no_commit_after_which_anything_could_be_done(
    database: Database, error: type[Interrupted] | None
) -> None:
    """The pool gives it the connection of the write before."""
    with suppress(Interrupted), database.write() as connection:
        after_commit(connection, lambda: None)
        if error:
            raise error
    with database.read() as connection, pytest.raises(KeyError):
        after_commit(connection, lambda: None)


def test_reserved_ids_follow_the_rows_that_are_there(database: Database) -> None:
    taken = queue(database, *phones(3))
    with database.write() as connection:
        ids = reserve_ids(connection, tables.messages, 4)
    assert len(set(ids)) == 4
    assert not set(ids) & set(taken)
    assert list(ids) == sorted(ids)


def test_ids_that_two_threads_reserve_and_use_are_never_the_same(database: Database) -> None:
    per_thread = 20

    def reserve() -> None:
        for _ in range(per_thread):
            queue(database, *phones(3))

    threads = [threading.Thread(target=reserve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    assert count(database, tables.messages) == 4 * per_thread * 3


def test_a_foreign_key_is_held_to_on_both_stores(database: Database) -> None:
    row = {"message_id": 404, "at": utc_now(), "status": "queued", "source": "test"}
    orphan = insert(tables.message_events).values(**row)
    with database.write() as connection, pytest.raises(IntegrityError):
        connection.execute(orphan)


def test_what_the_store_refuses_is_logged_without_number_or_text(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """PostgreSQL quotes the whole row, SQLAlchemy every parameter."""
    row = {"recipient": "+254711000001", "text": "Your code is\nseven seven", "origin": "api", "priority": 1}
    with pytest.raises(IntegrityError) as refused, database.write() as connection:
        connection.execute(insert(tables.messages).values(**row))
    # The log masks parameters and numbers too; this is for whatever else shows an error.
    assert "254711000001" not in str(refused.value).partition("DETAIL")[0]
    handler = LogHandler()
    logging.getLogger().addHandler(handler)
    logging.getLogger(__name__).warning("refused", exc_info=refused.value)
    logging.getLogger().removeHandler(handler)
    told = capsys.readouterr().err
    assert "IntegrityError" in told
    assert "INSERT INTO messages" in told
    assert "254711000001" not in told
    assert "Your code" not in told
    assert "seven" not in told


def test_the_clock_is_aware_and_near_this_machines(database: Database) -> None:
    with database.read() as connection:
        now = wall_clock(connection)
    assert abs(now - utc_now()) < timedelta(minutes=1)


def test_the_clock_goes_on_within_a_transaction(database: Database) -> None:
    with database.write() as connection:
        first = wall_clock(connection)
        assert wall_clock(connection) > first


def test_sqlite_survives_a_power_cut_and_lets_readers_read(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'deep' / 'er' / 'sms.db'}")
    with database.read() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
    database.close()


def test_a_reader_is_not_held_up_by_a_writer(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(tables.counters).values(name="a", value=1))
        assert count(database, tables.counters) == 0
    assert count(database, tables.counters) == 1


def test_two_holders_of_a_key_follow_each_other(database: Database) -> None:
    order: list[str] = []
    has_key, may_end = threading.Event(), threading.Event()

    def first() -> None:
        with database.write() as connection:
            lock_keys(connection, ["b", "a"])
            has_key.set()
            may_end.wait(TIMEOUT_SECONDS)
            order.append("first")

    def second() -> None:
        with database.write() as connection:
            lock_keys(connection, ["a", "c"])
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert has_key.wait(TIMEOUT_SECONDS)
    threads[1].start()
    threads[1].join(0.2)
    assert order == []
    may_end.set()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    assert order == ["first", "second"]


def test_keys_that_differ_do_not_wait_for_each_other_on_postgresql(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer")
    with database.write() as one, database.write() as other:
        lock_keys(one, ["a"])
        lock_keys(other, ["b", "b"])


def test_a_write_does_not_read_a_row_that_another_is_changing(database: Database) -> None:
    """Two that add one to the same counter: neither is lost."""
    add_counter(database, "sum")
    statement = select(tables.counters.c.value).where(tables.counters.c.name == "sum").with_for_update()

    def add() -> None:
        for _ in range(25):
            with database.write() as connection:
                value = connection.execute(statement).scalar_one()
                connection.execute(tables.counters.update().values(value=value + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    assert every(database, tables.counters)[0].value == 101


def test_an_id_is_never_given_twice_though_nothing_was_committed(database: Database) -> None:
    """Within one transaction: what was reserved is inserted before the next is reserved."""
    with database.write() as connection:
        (first,) = reserve_ids(connection, tables.attempts, 1)
        row = {"id": first, "state": "claimed", "worker": "w", "message_count": 0}
        row |= {"claimed_at": utc_now(), "lease_until": utc_now()}
        connection.execute(insert(tables.attempts).values(**row))
        (second,) = reserve_ids(connection, tables.attempts, 1)
    assert first != second


def test_a_line_to_postgresql_that_dies_without_a_word_is_given_up(database: Database) -> None:
    """What is set is asked of the socket itself: nothing on this machine can make a line die so."""
    if database.is_sqlite:
        return
    with database.read() as connection:
        session: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(session.fileno())) as line:
            unacknowledged = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            is_checked = line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, interval, count_of_checks = (line.getsockopt(socket.IPPROTO_TCP, name) for name in names)
    assert 0 < unacknowledged <= 30_000
    assert is_checked
    assert idle + interval * count_of_checks <= 30
