"""The two stores, for every test that asks for `database`.

On PostgreSQL each pytest process has a database of its own, made at first need and dropped at the end;
`TEST_DATABASE_URL` names the server. Without a server those tests are skipped, or fail where
`REQUIRE_SERVICES=1` says that there must be one.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from messaging.access.actor import acting
from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.task_queue import make_queue_tables
from utils import settings_model
from utils.logs import LogHandler, request_id
from utils.settings import Settings

SERVER_URL = os.environ.get("TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
MUST_HAVE_SERVICES = os.environ.get("REQUIRE_SERVICES") == "1"
CONNECT_SECONDS = 5
TOLD = "told"


@pytest.fixture(autouse=True)
def _nobody_acts() -> None:
    """A test that calls the app leaves behind who called, in the thread of the next test."""
    acting.set(None)
    request_id.set(None)


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """For what a test found out besides passing: it is shown at the end of the run."""
    return lambda text: record_property(TOLD, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    for report in reports:
        for text in (text for name, text in report.user_properties if name == TOLD):
            terminalreporter.section(report.nodeid)
            terminalreporter.write_line(str(text))


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """An app or a command that a test makes sets up all logging, also for the tests behind it.

    A thread that outlives its test, such as a wake-up to a queue that is gone, would write between their dots.
    """
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    own = (LogHandler, logging.NullHandler)
    others = [one for one in root.handlers if not isinstance(one, own)]
    root.handlers[:] = [*others, logging.NullHandler()]


@pytest.fixture(autouse=True)
def witness_of_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sends with a database on a server leaves nothing in the repository's own folder."""
    monkeypatch.setattr(settings_model, "WITNESS_OF_SERVER", str(tmp_path / "server-witness"))
    monkeypatch.setattr(settings_model, "TEST_KEYS_DATABASE_OF_SERVER", str(tmp_path / "test-keys.db"))


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, to be copied: quicker than making them for every test."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    _create_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A database with all tables, in the form of `DATABASE_URL`."""
    name = f"sms_test_{os.getpid()}_{secrets.token_hex(4)}"
    try:
        _on_server("CREATE DATABASE {}", name)
    except psycopg.OperationalError as error:
        if MUST_HAVE_SERVICES:
            raise
        pytest.skip(f"no PostgreSQL at TEST_DATABASE_URL: {error}")
    url = (
        make_url(SERVER_URL).set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    )
    try:
        _create_tables(_for_sqlalchemy(url))
        make_queue_tables(Settings(database_url=url))
        yield url
    finally:
        _on_server("DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind, in the form of `DATABASE_URL`: for tests that start processes."""
    if request.param == "sqlite":
        path = tmp_path / "sms.db"
        shutil.copy(request.getfixturevalue("empty_sqlite"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgresql_url")
    _empty(url)
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(_for_sqlalchemy(database_url))
    yield database
    database.close()


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Offline, with every default; `settings.model_copy(update={...})` changes some."""
    return Settings(database_url=database_url)


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _create_tables(url: str) -> None:
    database = Database(_for_sqlalchemy(url))
    tables.metadata.create_all(database.engine)
    database.close()


def _on_server(statement: str, name: str) -> None:
    with psycopg.connect(SERVER_URL, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _empty(url: str) -> None:
    """By DELETE: a TRUNCATE makes new files for every table and index, a third of a second each time."""
    all_tables = reversed(tables.metadata.sorted_tables)
    emptied = [f"DELETE FROM {table.name}" for table in all_tables]
    restarted = (
        "SELECT setval(oid::regclass, 1, false) FROM pg_class"
        " WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
    )
    with psycopg.connect(url) as connection:
        for statement in (*emptied, restarted):
            connection.execute(statement)
