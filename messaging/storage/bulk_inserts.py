"""Many rows at once by each store's own road: COPY on PostgreSQL, `executemany` of the driver on SQLite.

SQLAlchemy's binding of a dict per row costs several times the insert itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError

from messaging.storage.column_types import UtcDateTime

_TIME = UtcDateTime()


def insert_rows(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Into the caller's transaction. Times in `rows` have to be as `as_stored` gives them; ids may be left out."""
    if not rows:
        return
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608  (names of our tables)
        connection.exec_driver_sql(statement, [tuple(row) for row in rows])
    else:
        _copy(connection, f"COPY {table.name} ({names}) FROM STDIN", rows)


def as_stored(connection: Connection, at: datetime | None) -> Any:
    return _TIME.process_bind_param(at, connection.dialect)


def _copy(connection: Connection, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        # As SQLAlchemy's own statements fail, for nobody up there waits for the driver's: a full disk would end
        # the importer's thread for good.
        raise DBAPIError.instance(
            statement, None, error, psycopg.Error, dialect=connection.dialect
        ) from error
