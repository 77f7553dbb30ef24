from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import IntegrityError

from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.group_commit import HEAVIEST_GROUP, GroupCommit
from tests.support.delivery import count, every
from tests.support.group_commits import at_once, in_one_group


class Bad(Exception):
    pass


def write_counters(connection: Connection, names: Sequence[str]) -> list[str]:
    for name in names:
        if name.startswith("bad"):
            raise Bad(name)
        connection.execute(insert(tables.counters).values(name=name, value=len(names)))
    return [f"{name} is written" for name in names]


@pytest.fixture
def crowd(database: Database) -> Callable[..., list[Any]]:
    """Submits from as many threads at once, all of which find the turn taken."""

    def submit(*items: Any, work: Any = write_counters, **options: Any) -> list[Any]:
        calls = [lambda item=item: database.group_commit.submit(work, item, **options) for item in items]
        return in_one_group(database.group_commit, work, calls)

    return submit


def test_one_alone_is_written_and_gets_its_result(database: Database) -> None:
    assert database.group_commit.submit(write_counters, "a") == "a is written"
    assert count(database, tables.counters) == 1


def test_those_who_wait_share_a_commit_and_each_gets_its_own_result(
    database: Database, crowd: Callable[..., list[Any]]
) -> None:
    assert crowd("a", "b", "c", "d") == [f"{name} is written" for name in "abcd"]
    assert {row.value for row in every(database, tables.counters)} == {4}


def test_what_one_has_brought_is_durable_when_its_call_returns(database: Database) -> None:
    for number in range(5):
        database.group_commit.submit(write_counters, str(number))
        assert count(database, tables.counters) == number + 1


def test_one_that_fails_harms_nobody_else(database: Database, crowd: Callable[..., list[Any]]) -> None:
    found = crowd("a", "bad", "b", "worse but not bad")
    assert isinstance(found[1], Bad)
    assert [found[0], found[2]] == ["a is written", "b is written"]
    assert {row.name for row in every(database, tables.counters)} == {"a", "b", "worse but not bad"}


def test_a_group_that_fails_leaves_nothing_of_its_first_try(
    database: Database, crowd: Callable[..., list[Any]]
) -> None:
    with database.write() as connection:
        connection.execute(insert(tables.counters).values(name="taken", value=0))
    found = crowd("a", "taken", "b")
    assert isinstance(found[1], IntegrityError)
    # Each alone: a row that says 3 would be of the group.
    assert {row.name: row.value for row in every(database, tables.counters)} == {"a": 1, "b": 1, "taken": 0}


def test_after_a_failure_the_next_one_is_served(database: Database) -> None:
    with suppress(Bad):
        database.group_commit.submit(write_counters, "bad")
    assert database.group_commit.submit(write_counters, "a") == "a is written"


def test_works_of_different_kinds_do_not_wait_for_each_other(database: Database) -> None:
    """Each has a transaction of its own, and takes its locks in its own order."""

    def other(_connection: Connection, items: list[str]) -> list[str]:
        return items

    with database.group_commit._queue_of(write_counters).turn:
        assert database.group_commit.submit(other, "x") == "x"


def test_a_group_is_no_heavier_than_postgresql_can_lock(
    database: Database, crowd: Callable[..., list[Any]]
) -> None:
    sizes: list[int] = []

    def note(_connection: Connection, items: list[int]) -> list[int]:
        sizes.append(len(items))
        return items

    assert sorted(crowd(*range(7), work=note, weight=HEAVIEST_GROUP // 3)) == list(range(7))
    assert max(sizes) == 3
    assert sum(sizes) == 7


def test_one_that_is_too_heavy_for_any_group_is_written_alone(database: Database) -> None:
    assert database.group_commit.submit(write_counters, "a", weight=HEAVIEST_GROUP * 2) == "a is written"


def test_a_commit_of_which_nobody_knows_is_tried_again_alone(database: Database) -> None:
    """The connection breaks at the commit: what asks must bear to be asked twice, and is told what happened."""
    broken: list[None] = []

    class Breaks:
        def __init__(self) -> None:
            self._real = database.write()

        def __enter__(self) -> Connection:
            return self._real.__enter__()

        def __exit__(self, *error: Any) -> None:
            self._real.__exit__(*error)
            if not broken:
                broken.append(None)
                raise ConnectionError

    def once(connection: Connection, names: list[str]) -> list[bool]:
        """Whether the row is new."""
        find = text("SELECT count(*) FROM counters WHERE name = :name")
        is_new = [connection.execute(find, {"name": name}).scalar_one() == 0 for name in names]
        for name, new in zip(names, is_new, strict=True):
            if new:
                connection.execute(insert(tables.counters).values(name=name, value=1))
        return is_new

    groups = GroupCommit(Breaks)
    calls = [lambda name=name: groups.submit(once, name) for name in ("a", "b")]
    assert in_one_group(groups, once, calls) == [False, False]
    assert count(database, tables.counters) == 2


def test_many_threads_that_write_without_end_all_come_through(database: Database) -> None:
    def write_ten(thread: int) -> list[str]:
        return [database.group_commit.submit(write_counters, f"{thread}-{number}") for number in range(10)]

    found = at_once([lambda thread=thread: write_ten(thread) for thread in range(8)])
    assert [len(each) for each in found] == [10] * 8
    assert count(database, tables.counters) == 80
