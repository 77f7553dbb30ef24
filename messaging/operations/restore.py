"""`sms restore`: a backup takes the place of the database while everything is stopped, and the old one is kept.

The copy does not know what has left since. So a recovery is opened in it, and the next start finishes that before
anything is sent (messaging.operations.recovery).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from messaging.operations.backup import Verdict, in_sentences, verify
from messaging.storage import migrations, postgresql_dump, rollback
from messaging.storage.clocks import utc_now, wall_clock
from messaging.storage.database import Database
from messaging.storage.rollback import RESTORED
from utils.errors import Conflict
from utils.private_files import make_private_folder
from utils.settings import Settings
from utils.whole_files import BESIDE, put_in_place

_SESSIONS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)


class StillRunning(Conflict):
    code = "still_running"
    sentence = "Web or worker still uses the database: stop all of them first"


@dataclass(frozen=True, slots=True)
class Restored:
    """`kept`: where the database is that was in its place; None: there was none."""

    file: Path
    kept: str | None
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        return {"file": str(self.file), "kept": self.kept, "problems": self.verdict.problems}

    def __str__(self) -> str:
        kept = f" The former database is kept as {self.kept}." if self.kept else ""
        return (
            f"{self.file} is the database now ({self.verdict}).{kept} Start web and worker: they find out first what"
            " has left since, and send that to nobody again."
        )


def restore(settings: Settings, database: Database, file: Path) -> Restored:
    """Raises BackupFailed, StillRunning; then the database is as it was."""
    copy = verify(database, file)
    with in_sentences(file):
        replace = _replace_sqlite if database.is_sqlite else _replace_postgresql
        kept = replace(database, file, f"{utc_now():%Y%m%d-%H%M%S}")
    _open_recovery(settings)
    return Restored(file, kept, copy.verdict)


def _open_recovery(settings: Settings) -> None:
    """By a new object: the other one's connections may be to the former database."""
    database = Database(settings.sqlalchemy_url, pool_size=1)
    try:
        migrations.migrate(database)
        with database.write() as connection:
            rollback.open_recovery(connection, RESTORED, wall_clock(connection))
    finally:
        database.close()


def _replace_sqlite(database: Database, file: Path, moment: str) -> str | None:
    database.close()
    target = Path(database.engine.url.database or "")
    make_private_folder(target.parent)
    if not target.exists():
        _copy(file, target)
        return None
    kept = target.with_name(f"{target.name}-before-{moment}")
    with _held_alone(target):
        # Another name for it, so that there is a database at each moment.
        kept.hardlink_to(target)
        _copy(file, target)
    for ending in BESIDE[1:]:
        # Of the former database: beside the copy they would break it.
        beside = target.with_name(target.name + ending)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + ending))
    return str(kept)


def _copy(file: Path, target: Path) -> None:
    with put_in_place(target) as partial:
        shutil.copyfile(file, partial)


@contextmanager
def _held_alone(path: Path) -> Iterator[None]:
    """No other process has the file open, and all of its log is in it. Raises StillRunning."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            raise StillRunning from error
        except sqlite3.DatabaseError:
            # Damaged: a reason to restore. Nobody can be running on it.
            yield
            return
        yield


def _replace_postgresql(database: Database, file: Path, moment: str) -> str | None:
    with database.read() as connection:
        if connection.execute(_SESSIONS).scalar_one():
            raise StillRunning
    database.close()
    return postgresql_dump.replace(database.engine.url, file, f"before_{moment.replace('-', '_')}")
