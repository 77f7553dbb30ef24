"""A copy of the database while everything runs, and what the copy itself says when it is read back.

The copy is checked before it takes its place, so a file of an earlier run is replaced by a sound one only. Where the
audit finds contradictions the copy is kept: they are in the database as well.
"""

from __future__ import annotations

import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import OperationalError, ProgrammingError

from messaging.operations.audit import audit_at
from messaging.storage import postgresql_dump, tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from messaging.storage.sqlite_copy import copy_sqlite, find_damage, read_sqlite_copy
from utils.errors import BackupFailed
from utils.whole_files import put_in_place

SQLITE, POSTGRESQL = b"SQLite format 3\0", b"PGDMP"
OTHER_TABLES = "its tables are not those of this release"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a copy says. `problems`: how many of each kind; None where the audit cannot read its tables."""

    messages: int | None
    problems: dict[str, int] | None

    @property
    def ok(self) -> bool:
        return self.problems == {}

    def __str__(self) -> str:
        if self.problems is None:
            return f"not audited: {OTHER_TABLES}"
        if not self.problems:
            return "audit ok"
        return "audit: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.problems.items()))


@dataclass(frozen=True, slots=True)
class Copy:
    file: Path
    size_bytes: int
    verdict: Verdict

    @property
    def ok(self) -> bool:
        return self.verdict.ok

    def as_json(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "size_bytes": self.size_bytes,
            "messages": self.verdict.messages,
            "ok": self.ok,
            "problems": self.verdict.problems,
        }

    def __str__(self) -> str:
        """One line without a number or a text of anybody."""
        messages = "" if self.verdict.messages is None else f"{self.verdict.messages} messages, "
        return f"{self.file}: {self.size_bytes} bytes, {messages}{self.verdict}"


def back_up(database: Database, target: Path) -> Copy:
    """Raises BackupFailed; then nothing is left behind, and a file of an earlier run is as it was."""
    with in_sentences(target):
        _require_place(database, target)
        with put_in_place(target) as partial:
            copy = _copy_sqlite if database.is_sqlite else _copy_postgresql
            verdict = copy(database, partial)
        return Copy(target, target.stat().st_size, verdict)


def verify(database: Database, path: Path) -> Copy:
    """Reads a file that is there. Of PostgreSQL's it makes a database that is dropped again. Raises BackupFailed."""
    with in_sentences(path):
        _require_unused(database, path)
        with path.open("rb") as stream:
            start = stream.read(len(SQLITE))
        if start == SQLITE:
            verdict = _verify_sqlite(path)
        elif start.startswith(POSTGRESQL):
            verdict = _verify_postgresql(database, path)
        else:
            raise BackupFailed(
                f"{path} is no backup: neither a SQLite file nor a dump of pg_dump --format=custom"
            )
        return Copy(path, path.stat().st_size, verdict)


@contextmanager
def in_sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise BackupFailed(f"{path}: {said or error}") from error


def _require_place(database: Database, target: Path) -> None:
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise BackupFailed(f"{target} is no file: name the file to write")
    _require_unused(database, target)


def _require_unused(database: Database, path: Path) -> None:
    """By names only: to open and close the database's file would free the locks that SQLite has on it."""
    source = _sqlite_file(database)
    if source is not None and path.exists() and source.exists() and source.samefile(path):
        raise BackupFailed(f"{path} is the database itself: name another file")
    if path.with_name(f"{path.name}-wal").exists():
        raise BackupFailed(f"{path} is a database in use, no backup: {path.name}-wal lies beside it")


def _sqlite_file(database: Database) -> Path | None:
    return Path(database.engine.url.database or "") if database.is_sqlite else None


def _copy_sqlite(database: Database, partial: Path) -> Verdict:
    source = Path(database.engine.url.database or "")
    if not source.exists():
        raise BackupFailed(f"There is no database at {source}")
    copy_sqlite(source, partial)
    return _verify_sqlite(partial)


def _verify_sqlite(path: Path) -> Verdict:
    damage = find_damage(path)
    if damage is not None:
        raise BackupFailed(f"The copy is damaged: {damage}")
    with read_sqlite_copy(path) as connection:
        return _judge(connection)


def _copy_postgresql(database: Database, partial: Path) -> Verdict:
    """The audit reads the same snapshot as pg_dump. Whether the file gives it back is what a drill shows."""
    with postgresql_dump.exported_snapshot(database) as (connection, snapshot):
        postgresql_dump.dump(database.engine.url, partial, snapshot)
        _require_dump(partial)
        return _judge(connection)


def _require_dump(path: Path) -> None:
    missing = {tables.messages.name, tables.attempts.name} - postgresql_dump.list_tables(path)
    if missing:
        raise BackupFailed(f"The dump has no rows of {', '.join(sorted(missing))}")
    postgresql_dump.read_through(path)


def _verify_postgresql(database: Database, path: Path) -> Verdict:
    if database.is_sqlite:
        raise BackupFailed(f"{path} is a dump of PostgreSQL: DATABASE_URL must name a server to try it on")
    _require_dump(path)
    with postgresql_dump.restored(database.engine.url, path) as url:
        copy = Database(url.render_as_string(hide_password=False), pool_size=1)
        try:
            with copy.read() as connection:
                return _judge(connection)
        finally:
            copy.close()


def _judge(connection: Connection) -> Verdict:
    # Of a file that has been read through, SQLite has nothing else to complain of.
    has_other_tables = OperationalError if connection.dialect.name == "sqlite" else ProgrammingError
    messages = None
    try:
        messages = connection.execute(select(func.count()).select_from(tables.messages)).scalar_one()
        found = audit_at(connection, _last_moment(connection))
    except has_other_tables:
        return Verdict(messages, None)
    return Verdict(messages, dict(Counter(problem.kind for problem in found.problems)))


# The last of each, by the order in which they were written.
_MOMENTS = (
    select(tables.message_events.c.at).order_by(tables.message_events.c.id.desc()),
    select(tables.callbacks.c.received_at).order_by(tables.callbacks.c.id.desc()),
    select(tables.clock_anchors.c.seen_wall_at).order_by(tables.clock_anchors.c.seen_steady_at.desc()),
)


def _last_moment(connection: Connection) -> datetime:
    """By which a copy is judged: what was under way in it would be late by today's clock."""
    found = (connection.execute(moment.limit(1)).scalar() for moment in _MOMENTS)
    return max((moment for moment in found if moment is not None), default=utc_now())
