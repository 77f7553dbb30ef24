"""A copy of a SQLite file that others go on writing to, and the reading of such a copy."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool

from messaging.storage.clocks import ClocksOfCopy

# A megabyte, then a rest: the disk is for who answers callbacks.
PAGES_PER_STEP = 256
REST_SECONDS = 0.002
SOUND = "ok"


def copy_sqlite(source: Path, target: Path) -> None:
    """Of one moment, into one file without a log beside it. Raises sqlite3.Error."""
    with closing(_connect(source, "mode=ro")) as reader, closing(_open_target(target)) as writer:
        # In one read transaction: writers append to the log meanwhile. Without it each commit of theirs would have
        # the copy begin anew, and under steady load it would never end.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        reader.backup(writer, pages=PAGES_PER_STEP, progress=_rest)
    # By another connection: the pages of the source have made the copy a file with a log of its own.
    with closing(sqlite3.connect(target, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=DELETE")


def find_damage(path: Path) -> str | None:
    """What SQLite says of a copy whose pages do not fit together."""
    try:
        with closing(_connect(path, "mode=ro&immutable=1")) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == SOUND else str(found)


@contextmanager
def read_sqlite_copy(path: Path) -> Iterator[Connection]:
    """Leaves the file, and its folder, as they are."""
    engine = create_engine(
        "sqlite://",
        creator=lambda: _connect(path, "mode=ro&immutable=1"),
        poolclass=NullPool,
        hide_parameters=True,
    )
    event.listen(engine, "connect", lambda _connection, record: ClocksOfCopy().attach(record))
    with engine.connect() as connection:
        yield connection


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True, isolation_level=None)


def _open_target(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    # Whoever asked for the copy throws it away after a failure, and syncs it at the end.
    connection.execute("PRAGMA journal_mode=OFF")
    connection.execute("PRAGMA synchronous=OFF")
    return connection


def _rest(_status: int, _remaining: int, _total: int) -> None:
    time.sleep(REST_SECONDS)
