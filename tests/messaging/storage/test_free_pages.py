"""What is erased leaves the disk too: SQLite's file becomes smaller, step by step, and nobody waits long for it."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, text

from messaging.operations import erasure
from messaging.operations.forget import forget_in
from messaging.storage import free_pages, migrations, tables
from messaging.storage.database import Database
from tests.support.callback_rows import move_time
from tests.support.delivery import queue

DAY = timedelta(days=1)
ROOT = Path(__file__).parents[3]
PHONE = "+254711000001"
ROWS = 3000
LONG = "Your result is ready. " * 40


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Database]:
    """As `sms migrate` makes it."""
    with closing(migrated(tmp_path / "sms.db")) as database:
        yield database


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Database]:
    """As an earlier release made it: without `auto_vacuum`."""
    path = tmp_path / "sms.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    with closing(migrated(path)) as database:
        yield database


def migrated(path: Path) -> Database:
    database = Database(f"sqlite:///{path}")
    migrations.migrate(database)
    return database


def pragma(database: Database, name: str) -> int:
    with database.read() as connection:
        return int(connection.execute(text(f"PRAGMA {name}")).scalar_one())


def fill(database: Database) -> int:
    """How large the file is with the texts in it."""
    with database.write() as connection:
        rows = [{"name": f"{number} {LONG}", "value": 1} for number in range(ROWS)]
        connection.execute(insert(tables.counters), rows)
    database.truncate_log()
    return size(database)


def empty(database: Database) -> None:
    with database.write() as connection:
        connection.execute(delete(tables.counters).where(tables.counters.c.name.like(f"%{LONG}")))


def size(database: Database) -> int:
    return Path(str(database.engine.url.database)).stat().st_size


@pytest.fixture
def none_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_pages, "KEPT_PAGES", 0)


@pytest.mark.usefixtures("none_kept")
def test_a_file_becomes_smaller_and_stays_sound(new: Database) -> None:
    assert pragma(new, "auto_vacuum") == free_pages.INCREMENTAL
    new.truncate_log()
    before = size(new)
    full = fill(new)
    empty(new)
    new.truncate_log()
    assert size(new) == full
    assert free_pages.give_back(new) > ROWS / 10
    new.truncate_log()
    assert size(new) < before + 100_000 < full
    assert pragma(new, "freelist_count") == 0
    with new.read() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"


def test_some_free_pages_are_kept_for_what_comes_next(new: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_pages, "KEPT_PAGES", 100)
    fill(new)
    empty(new)
    free_pages.give_back(new)
    assert pragma(new, "freelist_count") == 100
    assert free_pages.give_back(new) == 0


@pytest.mark.usefixtures("none_kept")
def test_the_write_lock_is_let_go_between_small_steps(new: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(new)
    empty(new)
    free = pragma(new, "freelist_count")
    left: list[int] = []

    def look(_seconds: float) -> None:
        # A write of somebody else, in the same thread: it would raise or hang were the lock still held.
        with new.write() as connection:
            left.append(int(connection.execute(text("PRAGMA freelist_count")).scalar_one()))

    monkeypatch.setattr(free_pages.time, "sleep", look)
    monkeypatch.setattr(free_pages, "STEP_PAGES", 50)
    free_pages.give_back(new)
    assert len(left) == -(-free // 50)
    assert left[:2] == [free - 50, free - 100]


@pytest.mark.usefixtures("none_kept")
def test_what_there_was_no_time_for_comes_with_the_next_sweep(new: Database) -> None:
    full = fill(new)
    empty(new)
    assert free_pages.give_back(new, seconds=0) == free_pages.STEP_PAGES
    assert pragma(new, "freelist_count") > 0
    erasure.erase_old(new, 90 * DAY)
    assert pragma(new, "freelist_count") == 0
    assert size(new) < full / 2


@pytest.mark.usefixtures("none_kept")
@pytest.mark.parametrize("way", ["retention", "forget"])
def test_both_ways_to_erase_give_the_room_back(new: Database, way: str) -> None:
    """Of texts that fill pages of their own: a row that stays keeps its place."""
    count, longer = 300, 10 * LONG
    queue(new, *[PHONE] * count, text=longer)
    with new.write() as connection:
        connection.execute(tables.messages.update().values(status="delivered"))
    move_time(new, tables.messages, "created_at", 91 * DAY)
    new.truncate_log()
    full = size(new)
    if way == "forget":
        assert forget_in(new, PHONE) == {"messages": count}
    else:
        assert erasure.erase_old(new, 90 * DAY) == count
    assert size(new) < full - count * len(longer) / 2
    raw = Path(str(new.engine.url.database)).read_bytes()
    assert PHONE.encode() not in raw
    assert LONG.encode() not in raw


@pytest.mark.usefixtures("none_kept")
def test_a_file_of_an_earlier_release_works_on_and_keeps_its_free_pages(old: Database) -> None:
    full = fill(old)
    empty(old)
    erasure.erase_old(old, 90 * DAY)
    assert forget_in(old, PHONE) == {}
    assert free_pages.give_back(old) == 0
    assert pragma(old, "auto_vacuum") == 0
    assert pragma(old, "freelist_count") > ROWS / 10
    old.truncate_log()
    assert size(old) == full
    fill(old)
    assert size(old) == full


@pytest.mark.usefixtures("none_kept")
def test_the_documented_command_turns_it_on_in_such_a_file(old: Database) -> None:
    full = fill(old)
    path = str(old.engine.url.database)
    old.close()
    page = (ROOT / "docs/operations.md").read_text()
    (code,) = re.findall(r'^\.venv/bin/python -c "(.*auto_vacuum.*)"$', page, re.MULTILINE)
    subprocess.run([sys.executable, "-c", code.replace("instance/sms.db", path)], check=True)
    database = Database(f"sqlite:///{path}")
    assert pragma(database, "auto_vacuum") == free_pages.INCREMENTAL
    empty(database)
    assert free_pages.give_back(database) > 0
    database.truncate_log()
    assert size(database) < full / 2
    database.close()


def test_opening_a_file_writes_nothing_to_it(new: Database) -> None:
    new.truncate_log()
    path = str(new.engine.url.database)
    new.close()
    database = Database(f"sqlite:///{path}")
    assert pragma(database, "auto_vacuum") == free_pages.INCREMENTAL
    log = Path(f"{path}-wal")
    assert not log.exists() or log.stat().st_size == 0
    database.close()


def test_postgresql_is_left_alone() -> None:
    assert free_pages.give_back(Database("postgresql+psycopg://nobody@127.0.0.1:1/none")) == 0
