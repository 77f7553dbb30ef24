from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_for(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """The dialect's own INSERT: both stores know ON CONFLICT, SQLAlchemy's common one does not."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def insert_or_ignore(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Whether the row went in; an equal key is left as it is."""
    statement = insert_for(connection, table).values(**row).on_conflict_do_nothing()
    # RETURNING rather than rowcount, which SQLAlchemy leaves unknown for an INSERT on PostgreSQL.
    return connection.execute(statement.returning(*table.primary_key.columns)).first() is not None
