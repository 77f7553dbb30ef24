from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, Row, event, select, text, update
from sqlalchemy.exc import OperationalError

from messaging.access import key_throttle, login_throttle
from messaging.access.key_throttle import FREE_TRIES, KeyThrottle, network_of
from messaging.access.login_throttle import FIRST_WAIT, TooManyTries
from messaging.storage import counters, tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database

HERE, THERE = "192.0.2.7", "192.0.2.8"


@pytest.fixture(autouse=True)
def _each_writes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_throttle, "FLUSH_INTERVAL_SECONDS", 0.0)


def fail(throttle: KeyThrottle, times: int, address: str | None = HERE) -> None:
    for _ in range(times):
        throttle.count(address)


def rows(database: Database) -> list[Row[tuple[str, int]]]:
    with database.read() as connection:
        return list(connection.execute(tables.login_failures.select()))


def refused(database: Database) -> int:
    with database.read() as connection:
        return counters.read(connection, key_throttle.NAME)


def test_too_many_wrong_keys_have_to_wait_and_say_how_long(database: Database) -> None:
    throttle = KeyThrottle(database)
    fail(throttle, FREE_TRIES - 1)
    with pytest.raises(TooManyTries, match="wrong key: wait 30 seconds") as caught:
        throttle.count(HERE)
    assert caught.value.retry_after == FIRST_WAIT.total_seconds()
    fail(throttle, 1, THERE)


def test_what_another_process_has_counted_holds_here(database: Database) -> None:
    one, other = KeyThrottle(database), KeyThrottle(database)
    fail(one, FREE_TRIES // 2)
    fail(other, FREE_TRIES - FREE_TRIES // 2 - 1)
    with pytest.raises(TooManyTries):
        one.count(HERE)
    with pytest.raises(TooManyTries):
        KeyThrottle(database).count(HERE)


def test_who_has_to_wait_costs_no_write(database: Database) -> None:
    throttle = KeyThrottle(database)
    with pytest.raises(TooManyTries):
        fail(throttle, FREE_TRIES)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    for _ in range(100):
        with pytest.raises(TooManyTries):
            throttle.count(HERE)
    assert statements == []
    assert refused(database) == FREE_TRIES


def test_failures_within_a_second_share_a_write(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_throttle, "FLUSH_INTERVAL_SECONDS", 3600.0)
    throttle = KeyThrottle(database)
    fail(throttle, 1)
    writes: list[object] = []
    event.listen(database.engine, "commit", writes.append)
    for number in range(FREE_TRIES - 2):
        fail(throttle, 1, f"198.51.100.{number}")
        fail(throttle, 1)
    assert writes == []
    throttle.flush()
    assert len(writes) == 1
    assert [row.failures for row in rows(database) if row.who.endswith(HERE)] == [FREE_TRIES - 1]


def test_a_burst_is_known_to_others_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_throttle, "FLUSH_INTERVAL_SECONDS", 3600.0)
    with pytest.raises(TooManyTries):
        fail(KeyThrottle(database), FREE_TRIES + 1)
    with pytest.raises(TooManyTries):
        KeyThrottle(database).count(HERE)


def test_after_the_wait_one_more_has_to_wait_twice_as_long(database: Database) -> None:
    for seconds in (30, 30, 60, 120):
        with pytest.raises(TooManyTries) as caught:
            fail(KeyThrottle(database), FREE_TRIES)
        assert caught.value.retry_after == seconds
        with database.write() as connection:
            past = steady(connection, wall_clock(connection)) - timedelta(seconds=1)
            connection.execute(update(tables.login_failures).values(locked_until=past))


def test_many_addresses_fill_neither_table_nor_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_throttle, "MOST_ADDRESSES", 50)
    monkeypatch.setattr(key_throttle, "MOST_AT_ONCE", 10)
    throttle = KeyThrottle(database)
    with pytest.raises(TooManyTries):
        fail(throttle, FREE_TRIES)
    for number in range(200):
        throttle.count(f"198.51.100.{number}")
    assert len(rows(database)) <= 50
    assert refused(database) == FREE_TRIES + 200
    assert len(throttle._unwritten) <= 10
    with pytest.raises(TooManyTries):
        KeyThrottle(database).count(HERE)


def test_where_all_rows_are_of_those_who_wait_others_are_only_counted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttle = KeyThrottle(database)
    for address in ("198.51.100.1", "198.51.100.2"):
        with pytest.raises(TooManyTries):
            fail(throttle, FREE_TRIES, address)
    monkeypatch.setattr(key_throttle, "MOST_ADDRESSES", 2)
    fail(throttle, FREE_TRIES + 1)
    assert {row.who for row in rows(database)} == {"key:198.51.100.1", "key:198.51.100.2"}


def test_without_its_database_it_counts_on_and_writes_later(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    throttle = KeyThrottle(database)
    nowhere = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(throttle, "_database", nowhere)
    with caplog.at_level(logging.WARNING):
        fail(throttle, FREE_TRIES - 1)
        monkeypatch.setattr(key_throttle, "FLUSH_INTERVAL_SECONDS", 3600.0)
        with pytest.raises(TooManyTries):
            throttle.count(HERE)
    assert "stay uncounted" in caplog.text
    monkeypatch.setattr(throttle, "_database", database)
    throttle.flush()
    nowhere.close()
    assert (refused(database), [row.failures for row in rows(database)]) == (FREE_TRIES, [FREE_TRIES])


def test_while_writes_fail_it_remembers_no_more_addresses_than_at_other_times(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_throttle, "MOST_ADDRESSES", 50)
    throttle = KeyThrottle(database)
    others = itertools.count()

    def fail_while_others_come(*_: object) -> None:
        monkeypatch.setattr(key_throttle, "FLUSH_INTERVAL_SECONDS", 3600.0)
        for _ in range(40):
            throttle.count(f"198.51.100.{next(others)}")
        monkeypatch.setattr(key_throttle, "FLUSH_INTERVAL_SECONDS", 0.0)
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(throttle, "_write", fail_while_others_come)
    fail(throttle, 3)
    assert len(throttle._unwritten) == 50
    # Whoever tried most often is not forgotten, and all are counted.
    assert (throttle._unwritten[HERE], throttle._unwritten_total) == (3, 3 + 3 * 40)


@pytest.mark.parametrize("forget", [login_throttle.forget_old, key_throttle._make_room])
def test_whoever_forgets_waits_for_nobody_who_counts(
    database: Database, forget: Callable[[Connection, datetime], object]
) -> None:
    """Each would hold rows that the other one wants."""
    throttle = KeyThrottle(database)
    fail(throttle, 1)
    fail(throttle, 1, THERE)
    mine = tables.login_failures.c.who == f"key:{HERE}"
    held = select(tables.login_failures).where(mine).with_for_update()
    with database.engine.connect() as other, database.write() as connection:
        if not database.is_sqlite:
            other.execute(held)
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
        forget(connection, steady(connection, wall_clock(connection)) + timedelta(days=1))
    assert [row.who for row in rows(database)] == [f"key:{HERE}"] * (not database.is_sqlite)


def test_the_log_tells_once_who_has_to_wait(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    throttle = KeyThrottle(database)
    with caplog.at_level(logging.WARNING):
        for _ in range(FREE_TRIES + 5):
            try:
                throttle.count(HERE)
            except TooManyTries:
                continue
    assert [record.address for record in caplog.records] == [HERE]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("address", "stands_for"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        (None, "unknown"),
        ("x" * 500, "unknown"),
    ],
)
def test_an_address_stands_for_one_caller(address: str | None, stands_for: str) -> None:
    assert network_of(address) == stands_for
