"""An empty database of either kind, made for one benchmark and dropped after it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.engine import make_url

from messaging.storage.database import Database
from messaging.storage.migrations import migrate
from messaging.storage.task_queue import make_queue_tables
from utils.settings import Settings

SERVER_URL = os.environ.get("TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
CONNECT_SECONDS = 5
KINDS = ("sqlite", "postgresql")


def available_kinds() -> tuple[str, ...]:
    """Without PostgreSQL where there is no server, unless REQUIRE_SERVICES=1 says that there must be one."""
    try:
        psycopg.connect(SERVER_URL, connect_timeout=CONNECT_SECONDS).close()
    except psycopg.OperationalError:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            raise
        return KINDS[:1]
    return KINDS


@contextmanager
def migrated_database(kind: str, folder: Path) -> Iterator[str]:
    """Its `DATABASE_URL`, with all tables."""
    with empty_database(kind, folder) as url:
        with opened(url) as database:
            migrate(database)
        make_queue_tables(Settings(database_url=url))
        yield url


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(Settings(database_url=url).sqlalchemy_url)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'sms.db'}"
        return
    name = f"sms_benchmark_{os.getpid()}_{secrets.token_hex(4)}"
    _on_server("CREATE DATABASE {}", name)
    try:
        url = make_url(SERVER_URL).set(drivername="postgresql", database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        _on_server("DROP DATABASE {} WITH (FORCE)", name)


def settle_statistics(database: Database) -> None:
    """After a bulk insert: what PostgreSQL's autovacuum would have done by the time callbacks come."""
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _on_server(statement: str, name: str) -> None:
    with psycopg.connect(SERVER_URL, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
