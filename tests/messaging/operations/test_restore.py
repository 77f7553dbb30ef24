from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import select
from sqlalchemy.engine import make_url

from messaging.operations.backup import back_up
from messaging.operations.restore import Restored, StillRunning, restore
from messaging.storage import migrations, tables
from messaging.storage.database import Database
from messaging.storage.rollback import RESTORED
from tests.support.databases import KINDS, SERVER_URL, empty_database
from tests.support.delivery import count, every, phones, queue
from utils.errors import BackupFailed
from utils.settings import Settings


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A migrated database of its own, for a restore renames it."""
    with empty_database(request.param, tmp_path) as url:
        settings = Settings(database_url=url, witness_dir=str(tmp_path / "witness"))
        database = Database(settings.sqlalchemy_url)
        migrations.migrate(database)
        database.close()
        yield settings


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.sqlalchemy_url)
    yield database
    database.close()


def put_back(settings: Settings, file: Path) -> Restored:
    """As the command does it, by connections of its own. What it keeps on a server is dropped."""
    database = Database(settings.sqlalchemy_url)
    try:
        found = restore(settings, database, file)
    finally:
        database.close()
    if found.kept and not settings.database_is_sqlite:
        with psycopg.connect(SERVER_URL, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(found.kept)))
    return found


def test_the_copy_takes_the_place_of_the_database_and_a_recovery_is_open(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    queue(database, *phones(2))
    back_up(database, tmp_path / "copy.backup")
    queue(database, *phones(3, first=10))
    database.close()
    found = put_back(settings, tmp_path / "copy.backup")
    assert count(database, tables.messages) == 2
    (recovery,) = every(database, tables.recoveries)
    assert (recovery.reason, recovery.closed_at) == (RESTORED, None)
    assert found.verdict.ok
    assert str(tmp_path / "copy.backup") in str(found)


def test_the_former_database_is_kept_whole(settings: Settings, database: Database, tmp_path: Path) -> None:
    if not settings.database_is_sqlite:
        pytest.skip("a server keeps it under another name")
    queue(database, *phones(1))
    back_up(database, tmp_path / "copy.backup")
    queue(database, *phones(3, first=10))
    database.close()
    kept = Path(put_back(settings, tmp_path / "copy.backup").kept or "")
    with closing(sqlite3.connect(kept)) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (4,)
    assert stat.S_IMODE((tmp_path / "sms.db").stat().st_mode) == 0o600
    assert not list(tmp_path.glob("*.partial"))


def test_while_a_process_uses_the_database_nothing_is_put_back(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    back_up(database, tmp_path / "copy.backup")
    queue(database, *phones(1))
    with database.read() as connection:
        connection.execute(select(tables.messages.c.id)).all()
        with pytest.raises(StillRunning):
            put_back(settings, tmp_path / "copy.backup")
    database.close()
    assert count(database, tables.messages) == 1
    assert count(database, tables.recoveries) == 0


def test_a_file_that_is_no_backup_changes_nothing(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    queue(database, *phones(1))
    database.close()
    (tmp_path / "copy.backup").write_bytes(b"no backup")
    with pytest.raises(BackupFailed, match="is no backup"):
        put_back(settings, tmp_path / "copy.backup")
    assert count(database, tables.messages) == 1


def test_a_dump_that_breaks_off_leaves_the_database_under_its_name(
    settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settings.database_is_sqlite:
        pytest.skip("a dump is a server's")
    queue(database, *phones(1))
    back_up(database, tmp_path / "copy.backup")
    database.close()
    name = make_url(settings.database_url).database

    def fail(*_: object) -> None:
        raise BackupFailed("the disk of the server is full")

    monkeypatch.setattr("messaging.storage.postgresql_dump.load", fail)
    monkeypatch.setattr("messaging.operations.restore.verify", lambda *_: None)
    with pytest.raises(BackupFailed, match="is full"):
        put_back(settings, tmp_path / "copy.backup")
    assert count(database, tables.messages) == 1
    with psycopg.connect(SERVER_URL) as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{name}%"])
        assert found.fetchall() == [(name,)]


def test_a_database_that_is_lost_is_made_again(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    if not settings.database_is_sqlite:
        pytest.skip("a server has it or not")
    queue(database, *phones(1))
    back_up(database, tmp_path / "copy.backup")
    database.close()
    (tmp_path / "sms.db").unlink()
    assert put_back(settings, tmp_path / "copy.backup").kept is None
    assert count(database, tables.messages) == 1


def test_a_database_that_is_damaged_is_kept_as_it_is(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    if not settings.database_is_sqlite:
        pytest.skip("a file is what can be damaged by hand")
    back_up(database, tmp_path / "copy.backup")
    database.close()
    (tmp_path / "sms.db").write_bytes(b"nothing that SQLite knows" * 100)
    kept = put_back(settings, tmp_path / "copy.backup").kept
    assert Path(kept or "").read_bytes().startswith(b"nothing")
    assert count(database, tables.messages) == 0
