"""An empty database of its own for a test that starts processes: made, named, dropped."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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


def _on_server(statement: str, name: str) -> None:
    with psycopg.connect(SERVER_URL, autocommit=True, connect_timeout=5) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def is_anybody_blocked(database: Database) -> bool:
    """On PostgreSQL: whether a transaction of this database waits for another."""
    here = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    blocked = f"{here} AND cardinality(pg_blocking_pids(pid)) > 0"
    with database.read() as connection:
        return connection.execute(text(blocked)).first() is not None
