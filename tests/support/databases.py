"""An empty database of its own for a test that starts processes: made, named, dropped."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.engine import make_url

from messaging.storage.database import Database

SERVER_URL = os.environ.get("TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.services)]


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[str]:
    """Its `DATABASE_URL`, without tables. Skips where there is no server, unless there must be one."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'sms.db'}"
        return
    name = f"sms_stack_{os.getpid()}_{secrets.token_hex(4)}"
    try:
        _on_server("CREATE DATABASE {}", name)
    except psycopg.OperationalError as error:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no PostgreSQL at TEST_DATABASE_URL: {error}")
    try:
        url = make_url(SERVER_URL).set(drivername="postgresql", database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        _on_server("DROP DATABASE {} WITH (FORCE)", name)


@contextmanager
def opened(database_url: str) -> Iterator[Database]:
    """For looking into the books of running processes; `database_url` as in the settings."""
    database = Database(database_url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        yield database
    finally:
        database.close()


def has_postgresql() -> bool:
    """True also where there must be one and is none: then the test that wants it fails and says why."""
    try:
        psycopg.connect(SERVER_URL, connect_timeout=5).close()
    except psycopg.OperationalError:
        return os.environ.get("REQUIRE_SERVICES") == "1"
    return True


def make_tables(url: str, migrate: Callable[[str], None]) -> None:
    """In a database of `empty_database`: a copy of one that `migrate` made, which takes a second of processor time."""
    if url.startswith("sqlite:///"):
        shutil.copy(_file_template(migrate), url.removeprefix("sqlite:///"))
    elif url.rpartition("/")[0] == SERVER_URL.rpartition("/")[0]:
        name = url.rpartition("/")[2]
        template = _server_template(migrate)
        _on_server("DROP DATABASE {} WITH (FORCE)", name)
        _on_server("CREATE DATABASE {} TEMPLATE {}", name, template)
    else:
        migrate(url)


@cache
def _file_template(migrate: Callable[[str], None]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sms-template-"))
    atexit.register(shutil.rmtree, folder)
    migrate(f"sqlite:///{folder / 'sms.db'}")
    return folder / "sms.db"


@cache
def _server_template(migrate: Callable[[str], None]) -> str:
    name = f"sms_template_{os.getpid()}_{secrets.token_hex(4)}"
    _on_server("CREATE DATABASE {}", name)
    atexit.register(_on_server, "DROP DATABASE {} WITH (FORCE)", name)
    migrate(f"{SERVER_URL.rpartition('/')[0]}/{name}")
    # Nobody may be connected to what is copied, and a session ends a moment after its process.
    _on_server("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", name)
    with psycopg.connect(SERVER_URL, autocommit=True) as connection:
        wanted = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(wanted, [name])
    return name


def _on_server(statement: str, *names: str) -> None:
    with psycopg.connect(SERVER_URL, autocommit=True, connect_timeout=5) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def is_anybody_blocked(database: Database) -> bool:
    """On PostgreSQL: whether a transaction of this database waits for another."""
    here = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    blocked = f"{here} AND cardinality(pg_blocking_pids(pid)) > 0"
    with database.read() as connection:
        return connection.execute(text(blocked)).first() is not None
