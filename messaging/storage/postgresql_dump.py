"""PostgreSQL's own programs for a copy: `pg_dump`, `pg_restore`, and a database to try one in.

A password goes to them by the environment, for everybody on the machine may read their arguments. Of what they print
only complaints that quote no row are passed on.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, Connection, text

from messaging.storage.database import Database
from utils.errors import BackupFailed
from utils.settings import child_environment

# A migration that holds its tables for longer fails the dump, not the other way round: whoever waits for a lock that
# excludes all makes everybody behind it wait too.
LOCK_TIMEOUT = "60s"
CONNECT_SECONDS = 10
# There on every server unless somebody has dropped it.
MAINTENANCE = "postgres"
OTHER_VERSION = "server version mismatch"
_EXPORT = text("SELECT pg_export_snapshot()")
# The session does nothing while pg_dump reads.
_MAY_WAIT = text("SET LOCAL idle_in_transaction_session_timeout = 0")


@contextmanager
def exported_snapshot(database: Database) -> Iterator[tuple[Connection, str]]:
    """A transaction, and the name by which `dump` reads what it sees."""
    with database.read() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        connection.execute(_MAY_WAIT)
        yield connection, connection.execute(_EXPORT).scalar_one()


def dump(url: URL, target: Path, snapshot: str) -> None:
    """Raises BackupFailed."""
    options = ["--format=custom", f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_TIMEOUT}"]
    _run("pg_dump", [*options, f"--file={target}"], url)


def list_tables(path: Path) -> set[str]:
    """Whose rows a dump holds. Raises BackupFailed."""
    lines = _run("pg_restore", ["--list", str(path)]).splitlines()
    # "4711; 0 16385 TABLE DATA public messages owner"
    entries = (line.partition(" TABLE DATA ")[2].split() for line in lines if not line.startswith(";"))
    return {entry[1] for entry in entries if entry}


def read_through(path: Path) -> None:
    """Unpacks every row of a dump, into nothing. Raises BackupFailed."""
    _run("pg_restore", ["--file=/dev/null", str(path)], quotes_rows=True)


@contextmanager
def restored(url: URL, path: Path) -> Iterator[URL]:
    """A new database on the same server, with what the dump holds. Dropped at the end. Raises BackupFailed."""
    name = f"sms_verify_{secrets.token_hex(8)}"
    _on_server(url, "CREATE DATABASE {} TEMPLATE template0", name)
    try:
        copy = url.set(database=name)
        load(copy, path)
        yield copy
    finally:
        _on_server(url, "DROP DATABASE {} WITH (FORCE)", name)


def replace(url: URL, path: Path, ending: str) -> str:
    """What the dump holds takes the place of the database, which gets a longer name, the result.

    Raises BackupFailed; then it has its own name again.
    """
    name = url.database or ""
    kept = f"{name}_{ending}"
    # Nobody can rename the database that he is connected to.
    beside = url.set(database=MAINTENANCE)
    _on_server(beside, "ALTER DATABASE {} RENAME TO {}", name, kept)
    try:
        _on_server(beside, "CREATE DATABASE {} TEMPLATE template0", name)
        load(url, path)
    except BackupFailed:
        _on_server(beside, "DROP DATABASE IF EXISTS {}", name)
        _on_server(beside, "ALTER DATABASE {} RENAME TO {}", kept, name)
        raise
    return kept


def load(url: URL, path: Path) -> None:
    """Into an empty database: all of the dump or nothing. Raises BackupFailed."""
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    _run("pg_restore", [*options, str(path)], url, quotes_rows=True)


def _on_server(url: URL, statement: str, *names: str) -> None:
    try:
        options = _connect_options(url) | {"connect_timeout": CONNECT_SECONDS}
        with psycopg.connect(make_conninfo(**options), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
    except psycopg.Error as error:
        raise BackupFailed(f"The database {names[0]}: {_first_line(str(error))}") from error


def _connect_options(url: URL) -> dict[str, Any]:
    """By libpq's names. SQLAlchemy's own text of a URL leaves a space in a password as libpq refuses it."""
    return dict(url.get_dialect()().create_connect_args(url)[1])


def _run(program: str, arguments: list[str], url: URL | None = None, *, quotes_rows: bool = False) -> str:
    """What it printed. `url`: the database it connects to. `quotes_rows`: its complaints may hold texts."""
    secret: dict[str, str] = {}
    if url is not None:
        known = _connect_options(url)
        password = known.pop("password", None)
        secret = {} if password is None else {"PGPASSWORD": str(password)}
        arguments = ["--no-password", f"--dbname={make_conninfo(**known)}", *arguments]
    environment = child_environment({"LC_ALL": "C", **secret})
    try:
        done = subprocess.run(  # noqa: S603  (no shell, and our own arguments)
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise BackupFailed(_missing(program)) from error
    if done.returncode:
        raise BackupFailed(_explain(program, done, quotes_rows))
    return done.stdout


def _missing(program: str) -> str:
    return (
        f"{program} is not installed here: install PostgreSQL's client programs, of the server's release or newer"
        " (Debian: postgresql-client)"
    )


def _explain(program: str, done: subprocess.CompletedProcess[str], quotes_rows: bool) -> str:
    if OTHER_VERSION in done.stderr:
        detail = done.stderr.partition("detail: ")[2] or done.stderr
        return (
            f"{program} is older than the server ({_first_line(detail)}):"
            " install the client programs of the server's release"
        )
    if done.returncode < 0:
        return f"{program} was ended by signal {-done.returncode}"
    said = "it cannot be read to its end" if quotes_rows else _first_line(done.stderr)
    return f"{program} failed: {said.removeprefix(f'{program}: ').removeprefix('error: ')}"


def _first_line(told: str) -> str:
    return next(iter(told.strip().splitlines()), "it gave no reason")
