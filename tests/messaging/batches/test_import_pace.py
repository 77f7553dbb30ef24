from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text

from messaging.batches import import_pace
from messaging.batches.import_pace import checkpoint
from messaging.storage import tables
from messaging.storage.database import LONGEST_LOG_PAGES, SQLITE_BUSY_SECONDS, Database
from tests.support.delivery import count

TIMEOUT_SECONDS = 10.0


@contextmanager
def outside_transactions(database: Database) -> Iterator[Any]:
    with closing(database.engine.raw_connection()) as connection:
        yield connection


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'sms.db'}")
    with opened.write() as connection:
        tables.counters.create(connection)
    with outside_transactions(opened) as connection:
        checkpoint(opened, connection)
    yield opened
    opened.close()


def write(database: Database, first: int, rows: int) -> None:
    """Some pages of the log."""
    with database.write() as connection:
        given = [{"name": f"{number:05d}" + "x" * 30, "value": 1} for number in range(first, first + rows)]
        connection.execute(insert(tables.counters), given)


def log_bytes(database: Database) -> int:
    return Path(f"{database.engine.url.database}-wal").stat().st_size


def rows_in_the_file_alone(database: Database, tmp_path: Path) -> int:
    """As who has only the database's file, and not its log, would find it."""
    copy = tmp_path / "copy.db"
    copy.write_bytes(Path(database.engine.url.database or "").read_bytes())
    with closing(sqlite3.connect(copy)) as connection:
        return int(connection.execute("SELECT count(*) FROM counters").fetchone()[0])


def test_a_checkpoint_brings_all_into_the_file_and_the_log_begins_anew(
    database: Database, tmp_path: Path
) -> None:
    write(database, 0, 2000)
    length = log_bytes(database)
    assert rows_in_the_file_alone(database, tmp_path) == 0
    with outside_transactions(database) as connection:
        checkpoint(database, connection)
    assert rows_in_the_file_alone(database, tmp_path) == 2000
    for number in range(2000, 2020):
        write(database, number, 1)
    assert log_bytes(database) == length


class WrittenMeanwhile:
    """A connection of the driver, with which somebody writes before the log can begin anew."""

    def __init__(self, database: Database, connection: Any) -> None:
        self._database = database
        self._connection = connection

    def execute(self, statement: str) -> Any:
        result = self._connection.execute(statement)
        if "PASSIVE" in statement:
            write(self._database, 100, 1)
        return result


def test_the_log_also_begins_anew_where_others_write_all_the_time(database: Database, tmp_path: Path) -> None:
    write(database, 0, 10)
    with outside_transactions(database) as connection:
        checkpoint(database, WrittenMeanwhile(database, connection))
    assert rows_in_the_file_alone(database, tmp_path) == 11


def test_a_checkpoint_waits_for_no_reader(database: Database) -> None:
    """A download of an hour would hold up every writer behind it for thirty seconds."""
    write(database, 0, 10)
    done = threading.Event()

    def run() -> None:
        with outside_transactions(database) as connection:
            checkpoint(database, connection)
            assert connection.execute("PRAGMA busy_timeout").fetchone() == (SQLITE_BUSY_SECONDS * 1000,)
        done.set()

    with database.read() as reader:
        assert reader.execute(text("SELECT count(*) FROM counters")).scalar_one() == 10
        write(database, 10, 10)
        threading.Thread(target=run, daemon=True).start()
        assert done.wait(TIMEOUT_SECONDS)
        assert reader.execute(text("SELECT count(*) FROM counters")).scalar_one() == 10
    write(database, 20, 10)
    assert count(database, tables.counters) == 30


def test_a_checkpoint_that_cannot_be_done_is_left_to_the_next(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(database, 0, 10)
    with outside_transactions(database) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM counters").fetchall()
        checkpoint(database, connection)
        assert "cannot be written back" in caplog.text
        connection.execute("ROLLBACK")
        checkpoint(database, connection)
    assert rows_in_the_file_alone(database, tmp_path) == 10


def test_an_import_writes_the_log_back_as_it_goes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_pace, "ROWS_BETWEEN_CHECKPOINTS", 1000)
    with import_pace.import_pace(database) as pace:
        write(database, 0, 600)
        pace.after_write(600, 0.001)
        assert rows_in_the_file_alone(database, tmp_path) == 0
        write(database, 600, 600)
        pace.after_write(600, 0.001)
        assert rows_in_the_file_alone(database, tmp_path) == 1200


def test_a_log_that_nobody_writes_back_is_not_longer_than_some_pages(database: Database) -> None:
    with database.read() as connection:
        assert connection.execute(text("PRAGMA wal_autocheckpoint")).scalar_one() == LONGEST_LOG_PAGES
