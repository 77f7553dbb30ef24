"""Alembic without an ini file: the database is the one the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from messaging.storage.database import Database
from messaging.storage.revisions import SCRIPTS, is_current

# Any number that is ours: two releases that start at once migrate one after the other.
MIGRATION_LOCK = 7266


def migrate(database: Database, revision: str = "head") -> None:
    """Raises DatabaseIsNewer."""
    with _alone(database) as connection:
        is_current(connection)
        if not database.is_sqlite:
            # In a transaction that the question has begun no migration could commit midway.
            connection.commit()
        command.upgrade(_config(connection), revision)
        connection.commit()


def downgrade(database: Database, revision: str) -> None:
    with _alone(database) as connection:
        command.downgrade(_config(connection), revision)
        connection.commit()


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A connection while which no other process migrates: it holds SQLite's write lock, or an advisory lock."""
    # The write lock covers the connection too: two processes that switch a new file to WAL at once fail, "locked".
    with database.write_lock(), database.engine.connect() as connection:
        connection.execution_options(immediate=True)
        if database.is_sqlite:
            # One transaction for all revisions: between two of them another process would take the write lock
            # and do what this one has planned already.
            connection.begin()
        else:
            # The lock is the session's, for a migration may commit midway: back in the pool it would stay held.
            connection.detach()
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK})
            connection.commit()
        yield connection


def write_revision(database: Database, message: str) -> None:
    """A new migration from the difference between the tables and the models, to be read before it is kept."""
    with database.engine.connect() as connection:
        command.revision(_config(connection), message=message, autogenerate=True)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config
