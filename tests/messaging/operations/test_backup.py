from __future__ import annotations

import os
import resource
import secrets
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, Connection, delete, text

from messaging.messages.accept import Acceptance, SendRequest, accept
from messaging.operations import backup, health
from messaging.operations.backup import back_up, verify
from messaging.storage import postgresql_dump, sqlite_copy, tables
from messaging.storage.database import Database
from tests.support.databases import SERVER_URL
from tests.support.delivery import Clock, begin_posting, claim_one, count, phones, queue, queue_batch
from utils.errors import BackupFailed
from utils.setting_types import REPOSITORY
from utils.settings import Settings

TIMEOUT_SECONDS = 20.0
# A copy that waits for the writer to rest ends here.
MOST_BATCHES = 3000


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder / "sms.backup"


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@contextmanager
def writing(database: Database, settings: Settings) -> Iterator[list[Acceptance]]:
    """Somebody who goes on sending to three people, each time in one transaction. What was accepted so far."""
    committed: list[Acceptance] = []
    request = SendRequest(tuple(phones(3)), "Hello")
    has_begun, has_ended = threading.Event(), threading.Event()

    def write() -> None:
        while not has_ended.is_set() and len(committed) < MOST_BATCHES:
            committed.append(accept(settings, database, request))
            has_begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert has_begun.wait(TIMEOUT_SECONDS)
        yield committed
    finally:
        has_ended.set()
        thread.join()


def databases_of_drills() -> list[str]:
    with psycopg.connect(SERVER_URL) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'sms_verify_%'")
        return [row[0] for row in rows]


def test_a_copy_is_one_private_file_that_holds_all(database: Database, target: Path) -> None:
    queue(database, *phones(5))
    made = back_up(database, target)
    assert made.ok
    assert made.verdict.messages == 5
    assert files(target.parent) == [target.name]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert made.size_bytes == target.stat().st_size > 0
    assert verify(database, target) == made
    assert files(target.parent) == [target.name]


def test_a_writer_goes_on_and_the_copy_is_of_one_moment(
    database: Database, settings: Settings, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page by itself, so that many commits fall between the first and the last."""
    monkeypatch.setattr(sqlite_copy, "PAGES_PER_STEP", 1)
    queue(database, *phones(300))
    with writing(database, settings) as batches:
        before = len(batches)
        made = back_up(database, target)
        after = len(batches) + 1
    assert before + 2 < after < MOST_BATCHES
    assert made.verdict.problems == {}
    assert made.verdict.messages is not None
    assert 300 + 3 * before <= made.verdict.messages <= 300 + 3 * after
    assert verify(database, target) == made


@pytest.mark.parametrize("is_set", [False, True], ids=["an old copy", "the clock was set since"])
def test_what_was_under_way_is_not_late_in_a_copy_of_that_moment(
    database: Database, target: Path, is_set: bool
) -> None:
    """As if the copy were an hour old, and all leases in it long over; or made while the clock was an hour fast."""
    clock = Clock(database)
    if is_set:
        clock.set_wall(hours=1)
    else:
        clock.step(hours=-1)
    queue(database, *phones(1))
    begin_posting(database, claim_one(database))
    health.beat(database, "worker")
    back_up(database, target)
    assert verify(database, target).verdict.problems == {}


def test_a_contradiction_in_the_records_is_told_and_the_copy_is_kept(
    database: Database, target: Path
) -> None:
    queue_batch(database, phones(3))
    with database.write() as connection:
        connection.execute(delete(tables.messages).where(tables.messages.c.recipient == phones(1)[0]))
    for found in (back_up(database, target), verify(database, target)):
        assert not found.ok
        assert found.verdict.problems == {"missing_messages": 1}
        assert str(found).endswith("2 messages, audit: 1 missing_messages")


def test_a_later_copy_takes_the_place_of_an_earlier_one(database: Database, target: Path) -> None:
    back_up(database, target)
    queue(database, *phones(2))
    assert back_up(database, target).verdict.messages == 2
    assert files(target.parent) == [target.name]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_file_that_was_cut_off_is_no_backup(database: Database, target: Path, share: float) -> None:
    queue(database, *phones(300))
    size = back_up(database, target).size_bytes
    os.truncate(target, int(size * share))
    with pytest.raises(BackupFailed):
        verify(database, target)
    assert files(target.parent) == [target.name]


def test_a_file_with_foreign_bytes_in_its_middle_is_no_backup(database: Database, target: Path) -> None:
    queue(database, *phones(300))
    size = back_up(database, target).size_bytes
    with target.open("r+b") as stream:
        # Nearly all: of a file of SQLite some pages may be free, and their bytes mean nothing.
        stream.seek(size // 10)
        stream.write(b"\x55" * (size * 8 // 10))
    with pytest.raises(BackupFailed):
        verify(database, target)


@pytest.mark.parametrize("content", [b"", b"phone,text\n", b"SQLite format 3\0", b"PGDMP"])
def test_another_file_is_no_backup(database: Database, target: Path, content: bytes) -> None:
    target.write_bytes(content)
    with pytest.raises(BackupFailed):
        verify(database, target)
    assert target.read_bytes() == content


def test_a_file_that_is_missing_is_told(database: Database, target: Path) -> None:
    with pytest.raises(BackupFailed, match="No such file"):
        verify(database, target)
    assert files(target.parent) == []


@pytest.mark.parametrize("folder", ["missing", "/proc"])
def test_a_folder_that_is_missing_or_cannot_be_written_is_told(
    database: Database, target: Path, folder: str
) -> None:
    with pytest.raises(BackupFailed, match="No such file"):
        back_up(database, target.parent / folder / "sms.backup")


def test_a_device_or_a_folder_is_not_replaced(database: Database, target: Path) -> None:
    for place in (Path(os.devnull), target.parent):
        with pytest.raises(BackupFailed, match="is no file"):
            back_up(database, place)
    assert Path(os.devnull).is_char_device()


LIMITED = """
import sys
from pathlib import Path
from messaging.operations.backup import back_up
from messaging.storage.database import Database
from utils.errors import BackupFailed
try:
    back_up(Database(sys.argv[1]), Path(sys.argv[2]))
except BackupFailed as error:
    sys.exit(error.message)
"""


def test_a_full_disk_leaves_what_was_there(database: Database, database_url: str, target: Path) -> None:
    queue(database, *phones(300))
    target.write_text("yesterday's")
    url = database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, url, str(target)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY)),
    )
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence
    assert files(target.parent) == [target.name]
    assert target.read_text() == "yesterday's"


def test_what_a_killed_run_left_is_taken_away_by_the_next(database: Database, target: Path) -> None:
    for ending in (".partial", ".partial-wal", ".partial-journal"):
        target.with_name(target.name + ending).write_bytes(b"half")
    assert back_up(database, target).ok
    assert files(target.parent) == [target.name]


def test_a_copy_of_another_release_is_kept_and_called_unaudited(database: Database, target: Path) -> None:
    with database.write() as connection:
        connection.execute(text("ALTER TABLE clock_anchors RENAME COLUMN seen_wall_at TO other"))
    try:
        made = back_up(database, target)
    finally:
        with database.write() as connection:
            connection.execute(text("ALTER TABLE clock_anchors RENAME COLUMN other TO seen_wall_at"))
    assert not made.ok
    assert made.verdict.messages == 0
    assert backup.OTHER_TABLES in str(made)
    assert target.exists()


class TestSqlite:
    @pytest.fixture
    def path(self, empty_sqlite: Path, tmp_path: Path) -> Path:
        path = tmp_path / "sms.db"
        path.write_bytes(empty_sqlite.read_bytes())
        return path

    @pytest.fixture
    def database(self, path: Path) -> Iterator[Database]:
        database = Database(f"sqlite:///{path}")
        yield database
        database.close()

    def test_the_database_itself_is_not_replaced(self, database: Database, path: Path) -> None:
        link = path.with_name("link")
        link.symlink_to(path)
        queue(database, *phones(1))
        for name in (path, link, path.parent / "." / path.name):
            for action in (back_up, verify):
                with pytest.raises(BackupFailed, match="is the database itself"):
                    action(database, name)
        assert count(database, tables.messages) == 1

    def test_a_copy_needs_no_log_beside_it(self, database: Database, target: Path) -> None:
        back_up(database, target)
        # The file's format for writing and for reading: 1 is a rollback journal, 2 a write-ahead log.
        assert target.read_bytes()[18:20] == b"\x01\x01"

    def test_a_database_that_somebody_else_uses_is_not_replaced(
        self, database: Database, target: Path
    ) -> None:
        with closing(sqlite3.connect(target)) as other:
            other.execute("PRAGMA journal_mode=WAL")
            other.execute("CREATE TABLE some (id INTEGER)")
            with pytest.raises(BackupFailed, match="a database in use"):
                back_up(database, target)

    def test_a_database_that_is_damaged_leaves_the_copy_of_yesterday(
        self, database: Database, path: Path, target: Path
    ) -> None:
        queue(database, *phones(300))
        made = back_up(database, target)
        database.close()
        with path.open("r+b") as stream:
            stream.seek(8 * 4096)
            stream.write(b"\x55" * 4096 * 8)
        with pytest.raises(BackupFailed):
            back_up(database, target)
        assert verify(database, target) == made
        assert files(target.parent) == [target.name]

    def test_a_database_that_is_missing_is_told_and_not_made(self, tmp_path: Path, target: Path) -> None:
        with pytest.raises(BackupFailed, match="There is no database"):
            back_up(Database(f"sqlite:///{tmp_path}/missing.db"), target)
        assert not (tmp_path / "missing.db").exists()

    def test_a_dump_of_postgresql_needs_a_server(self, database: Database, target: Path) -> None:
        target.write_bytes(b"PGDMP and more than that")
        with pytest.raises(BackupFailed, match="DATABASE_URL must name a server"):
            verify(database, target)


@pytest.mark.services
class TestPostgresql:
    @pytest.fixture(params=["postgresql"])
    def database_url(self, request: pytest.FixtureRequest, postgresql_url: str) -> str:
        return postgresql_url

    @pytest.fixture(autouse=True)
    def _emptied(self, database: Database) -> None:
        with database.write() as connection:
            connection.execute(delete(tables.messages))

    def test_the_database_of_a_drill_is_dropped_however_it_ends(
        self, database: Database, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []
        judge = backup._judge

        def look_and_judge(connection: Connection) -> backup.Verdict:
            seen.append(connection.execute(text("SELECT current_database()")).scalar_one())
            return judge(connection)

        monkeypatch.setattr(backup, "_judge", look_and_judge)
        back_up(database, target)
        verify(database, target)
        assert seen[-1].startswith("sms_verify_")
        # Those of other tests may be there.
        assert seen[-1] not in databases_of_drills()

    def test_a_dump_with_foreign_bytes_does_not_take_the_place_of_an_older_one(
        self, database: Database, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue(database, *phones(300))
        made = back_up(database, target)
        dump = postgresql_dump.dump

        def dump_badly(url: URL, path: Path, snapshot: str) -> None:
            dump(url, path, snapshot)
            content = path.read_bytes()
            # The list of contents comes first and stays as it is; these are packed rows.
            place = content.rindex(b"\x78\x9c") + 2
            path.write_bytes(content[:place] + b"\x55" * (len(content) - place))

        monkeypatch.setattr(postgresql_dump, "dump", dump_badly)
        with pytest.raises(BackupFailed, match="cannot be read to its end"):
            back_up(database, target)
        assert verify(database, target) == made

    def test_a_user_who_may_not_make_a_database_is_told(self, database: Database, target: Path) -> None:
        back_up(database, target)
        role = f"sms_test_{secrets.token_hex(4)}"
        with psycopg.connect(SERVER_URL, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            try:
                restricted = Database(
                    database.engine.url.set(username=role).render_as_string(hide_password=False)
                )
                with pytest.raises(BackupFailed, match="permission denied to create database"):
                    verify(restricted, target)
            finally:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))

    def test_programs_that_are_missing_are_named(
        self, database: Database, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        back_up(database, target)
        monkeypatch.setenv("PATH", str(target.parent))
        with pytest.raises(BackupFailed, match="pg_dump is not installed"):
            back_up(database, target)
        with pytest.raises(BackupFailed, match="pg_restore is not installed"):
            verify(database, target)
        assert files(target.parent) == [target.name]

    def test_programs_older_than_the_server_are_named(
        self, database: Database, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As pg_dump 15 says it of a server 17; two servers are not at hand."""
        old = tmp_path / "bin" / "pg_dump"
        old.parent.mkdir()
        old.write_text(
            "#!/bin/sh\n"
            "echo 'pg_dump: error: aborting because of server version mismatch' >&2\n"
            "echo 'pg_dump: detail: server version: 17.2; pg_dump version: 15.20' >&2\n"
            "exit 1\n"
        )
        old.chmod(0o755)
        monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
        with pytest.raises(BackupFailed, match=r"older than the server \(server version: 17\.2"):
            back_up(database, target)
        assert files(target.parent) == []

    def test_a_password_is_no_argument_of_a_program(
        self, database: Database, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spy = tmp_path / "bin" / "pg_dump"
        spy.parent.mkdir()
        spy.write_text(
            f'#!/bin/sh\necho "$@" >{tmp_path}/seen\necho "$PGPASSWORD" >{tmp_path}/password\nexit 1\n'
        )
        spy.chmod(0o755)
        monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")
        url = database.engine.url.set(password="s3cret/@ word")
        for one in (url, url.set(password=None).update_query_dict({"password": "s3cret/@ word"})):
            with pytest.raises(BackupFailed) as failed:
                postgresql_dump.dump(one, target, "snapshot")
            assert "s3cret" not in failed.value.message
            assert "s3cret" not in (tmp_path / "seen").read_text()
            assert str(url.database) in (tmp_path / "seen").read_text()
            assert (tmp_path / "password").read_text() == "s3cret/@ word\n"
