"""A database that is empty again, in milliseconds, before each of thousands of runs."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Protocol

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from messaging.storage import migrations
from tests.support.databases import SERVER_URL, opened

MEMORY = Path("/dev/shm")
LOOK_SECONDS = 0.001
TIMEOUT_SECONDS = 20.0
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class Store(Protocol):
    """`url` as in `DATABASE_URL`. `folder`: for other files, which `empty` takes away too."""

    name: str
    url: str
    folder: Path

    def empty(self, revision: str = "head") -> None:
        """All tables of a revision, and no row; no process may have it open."""

    def wait_until_alone(self) -> None:
        """Until the sessions of processes that ended are gone."""

    def close(self) -> None: ...


class SqliteStore:
    """In memory where the machine has such a folder: a process that dies loses no write, so no disk is needed."""

    name = "sqlite"

    def __init__(self) -> None:
        self._all = _new_folder()
        self.folder = self._all / "run"
        self._path = self.folder / "sms.db"
        self.url = f"sqlite:///{self._path}"

    def empty(self, revision: str = "head") -> None:
        template = self._all / f"{revision}.template"
        if not template.exists():
            _make_anew(self.folder)
            _migrate(self.url, revision)
            shutil.copy(self._path, template)
        _make_anew(self.folder)
        shutil.copy(template, self._path)

    def wait_until_alone(self) -> None:
        """The kernel has ended them already."""

    def close(self) -> None:
        shutil.rmtree(self._all)


class PostgresqlStore:
    """One database, emptied row by row; one of another revision is copied from a template."""

    name = "postgresql"

    def __init__(self) -> None:
        self._all = _new_folder()
        self.folder = self._all / "run"
        self._name = f"sms_proof_{os.getpid()}_{secrets.token_hex(4)}"
        self._templates: dict[str, str] = {}
        url = make_url(SERVER_URL).set(drivername="postgresql", database=self._name)
        self.url = url.render_as_string(hide_password=False)
        self._is_head = False
        self._server = psycopg.connect(SERVER_URL, autocommit=True, connect_timeout=5)
        self._on_server("CREATE DATABASE {}", self._name)
        # A process that dies loses no commit that the server has heard of.
        self._on_server("ALTER DATABASE {} SET synchronous_commit = off", self._name)

    def empty(self, revision: str = "head") -> None:
        _make_anew(self.folder)
        if revision != "head":
            self._copy(revision)
        elif self._is_head:
            self._delete_rows()
        else:
            self._make_anew()
            _migrate(self.url, revision)
            self._is_head = True

    def _copy(self, revision: str) -> None:
        if revision not in self._templates:
            self._make_anew()
            _migrate(self.url, revision)
            template = f"{self._name}_{revision}"
            self._on_server("CREATE DATABASE {} TEMPLATE {}", template, self._name)
            self._templates[revision] = template
        self._make_anew(self._templates[revision])

    def _make_anew(self, template: str = "template0") -> None:
        self._is_head = False
        self._on_server("DROP DATABASE {} WITH (FORCE)", self._name)
        self._on_server("CREATE DATABASE {} TEMPLATE {}", self._name, template)
        self._on_server("ALTER DATABASE {} SET synchronous_commit = off", self._name)

    def _delete_rows(self) -> None:
        with psycopg.connect(self.url) as connection:
            found = connection.execute(
                "SELECT relname FROM pg_stat_user_tables WHERE relname <> 'alembic_version'"
            )
            names = [sql.Identifier(row[0]) for row in found]
            connection.execute("SET session_replication_role = replica")
            for name in names:
                connection.execute(sql.SQL("DELETE FROM {}").format(name))
            connection.execute(
                "SELECT setval(oid::regclass, 1, false) FROM pg_class"
                " WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
            )

    def wait_until_alone(self) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        with psycopg.connect(self.url, autocommit=True) as connection:
            while connection.execute(_OTHERS).fetchone() != (0,):
                if time.monotonic() > deadline:
                    raise TimeoutError("a session of a process that has ended is still there")
                time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        for name in (self._name, *self._templates.values()):
            self._on_server("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        self._server.close()
        shutil.rmtree(self._all)

    def _on_server(self, statement: str, *names: str) -> None:
        self._server.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


STORES: dict[str, type[SqliteStore] | type[PostgresqlStore]] = {
    "sqlite": SqliteStore,
    "postgresql": PostgresqlStore,
}


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sms-proof-", dir=MEMORY if MEMORY.is_dir() else None))


def _make_anew(folder: Path) -> None:
    """Without anything that the service had put there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _migrate(url: str, revision: str) -> None:
    with opened(url) as database:
        migrations.migrate(database, revision)
