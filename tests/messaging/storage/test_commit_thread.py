from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert
from sqlalchemy.exc import IntegrityError

from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.commit_thread import CommitThread
from messaging.storage.database import Database
from tests.support.callback_rows import at_once
from utils.errors import StorageUnavailable

Commits = CommitThread[str, str]
Make = Callable[..., Commits]


def write_names(connection: Connection, names: list[str]) -> list[str]:
    connection.execute(insert(tables.heartbeats), [{"worker": name, "seen_at": utc_now()} for name in names])
    return [name.upper() for name in names]


def stored(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(tables.heartbeats.select()).scalars())


@pytest.fixture
def make(database: Database) -> Iterator[Make]:
    made: list[Commits] = []

    def make_one(work: Any = write_names, careful_work: Any = None, **options: Any) -> Commits:
        made.append(CommitThread(database, work, careful_work, **options))
        return made[-1]

    yield make_one
    for one in made:
        one.stop()


class Gate:
    """Work that waits for `open`, and remembers what each group held."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, connection: Connection, names: list[str]) -> list[str]:
        self.groups.append(names)
        self.entered.set()
        self.open.wait(10)
        return write_names(connection, names)


def submit_later(commits: Commits, names: list[str]) -> list[threading.Thread]:
    threads = [threading.Thread(target=commits.submit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    return threads


def wait_until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_item_is_durable_when_submit_returns_and_has_its_own_result(
    make: Make, database: Database
) -> None:
    assert make().submit("a") == "A"
    assert stored(database) == ["a"]


def test_everybody_gets_the_result_of_their_own_item(make: Make, database: Database) -> None:
    commits = make()
    names = [f"n{number}" for number in range(40)]
    results = at_once([lambda name=name: commits.submit(name) for name in names])
    assert results == [name.upper() for name in names]
    assert stored(database) == sorted(names)


def test_what_waits_during_a_commit_shares_the_next_one(make: Make) -> None:
    gate = Gate()
    commits = make(gate)
    threads = submit_later(commits, ["first"])
    assert gate.entered.wait(10)
    threads += submit_later(commits, ["b", "c", "d"])
    wait_until(lambda: commits._queue.qsize() == 3)
    gate.open.set()
    for thread in threads:
        thread.join(10)
    assert [sorted(group) for group in gate.groups] == [["first"], ["b", "c", "d"]]


def test_a_group_is_bounded(make: Make) -> None:
    gate = Gate()
    commits = make(gate, group_size=2)
    threads = submit_later(commits, ["first"])
    assert gate.entered.wait(10)
    threads += submit_later(commits, ["b", "c", "d"])
    wait_until(lambda: commits._queue.qsize() == 3)
    gate.open.set()
    for thread in threads:
        thread.join(10)
    assert [len(group) for group in gate.groups] == [1, 2, 1]


def test_failing_work_reaches_every_waiter_stores_nothing_and_the_next_item_goes_on(
    make: Make, database: Database
) -> None:
    gate = Gate()
    commits = make(gate)
    threads = submit_later(commits, ["first"])
    assert gate.entered.wait(10)
    raised: list[str] = []

    def submit_twin() -> None:
        with pytest.raises(IntegrityError):
            commits.submit("twin")
        raised.append("twin")

    twins = [threading.Thread(target=submit_twin) for _ in range(2)]
    for thread in twins:
        thread.start()
    wait_until(lambda: commits._queue.qsize() == 2)
    gate.open.set()
    for thread in threads + twins:
        thread.join(10)
    assert raised == ["twin", "twin"]
    assert stored(database) == ["first"]
    assert commits.submit("next") == "NEXT"


def test_careful_work_runs_in_a_fresh_transaction_after_a_failure(make: Make, database: Database) -> None:
    def fail_after_writing(connection: Connection, names: list[str]) -> list[str]:
        write_names(connection, [f"lost-{name}" for name in names])
        raise ValueError("no")

    assert make(fail_after_writing, write_names).submit("a") == "A"
    assert stored(database) == ["a"]


def test_a_failing_commit_reaches_the_waiter(make: Make, database: Database) -> None:
    def refuse(_connection: Any) -> None:
        raise OSError("no space left")

    commits = make()
    event.listen(database.engine, "commit", refuse)
    with pytest.raises(OSError, match="no space left"):
        commits.submit("a")
    event.remove(database.engine, "commit", refuse)
    assert commits.submit("b") == "B"
    assert stored(database) == ["b"]


def test_a_waiter_does_not_wait_for_ever(make: Make) -> None:
    gate = Gate()
    commits = make(gate)
    with pytest.raises(StorageUnavailable):
        commits.submit("a", timeout_seconds=0.05)
    gate.open.set()


def test_the_thread_starts_at_first_use_and_counts_as_alive_before(make: Make) -> None:
    commits = make(name="lazy")
    assert commits.is_alive()
    assert "lazy" not in {thread.name for thread in threading.enumerate()}
    commits.submit("a")
    assert "lazy" in {thread.name for thread in threading.enumerate()}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_seen_and_nobody_waits_for_it(make: Make) -> None:
    def die(_connection: Connection, _names: list[str]) -> list[str]:
        raise SystemExit

    commits = make(die)
    with pytest.raises(StorageUnavailable):
        commits.submit("a")
    wait_until(lambda: not commits.is_alive())
    with pytest.raises(StorageUnavailable):
        commits.submit("b")


def test_stopping_commits_what_waits_and_takes_nothing_more(make: Make, database: Database) -> None:
    gate = Gate()
    commits = make(gate)
    threads = submit_later(commits, ["first"])
    assert gate.entered.wait(10)
    threads += submit_later(commits, ["b", "c"])
    wait_until(lambda: commits._queue.qsize() == 2)
    gate.open.set()
    commits.stop()
    for thread in threads:
        thread.join(10)
    assert stored(database) == ["b", "c", "first"]
    with pytest.raises(StorageUnavailable):
        commits.submit("late")


def test_a_forked_process_gets_a_thread_of_its_own(make: Make, database: Database) -> None:
    commits = make()
    commits.submit("parent")
    child = os.fork()
    if child == 0:
        database.engine.dispose(close=False)
        os._exit(0 if commits.submit("child") == "CHILD" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert commits.submit("parent again") == "PARENT AGAIN"
    assert stored(database) == ["child", "parent", "parent again"]
