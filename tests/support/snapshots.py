"""A database put back to what it was, rows and sequences, on both stores: as a restored backup is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, text

from messaging.storage import tables
from messaging.storage.database import Database

_SEQUENCES = text("SELECT sequencename, coalesce(last_value, 0) AS value FROM pg_sequences")
_SET_BACK = text("SELECT setval(:name, greatest(:value, 1), :value > 0)")


class Snapshot:
    def __init__(self, database: Database) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {}
        with database.read() as connection:
            for table in tables.metadata.sorted_tables:
                self._rows[table.name] = [dict(row._mapping) for row in connection.execute(select(table))]
            self._sequences = {} if database.is_sqlite else dict(connection.execute(_SEQUENCES).all())

    def put_back(self, database: Database) -> None:
        with database.write() as connection:
            for table in reversed(tables.metadata.sorted_tables):
                connection.execute(table.delete())
            for table in tables.metadata.sorted_tables:
                if self._rows[table.name]:
                    connection.execute(insert(table), self._rows[table.name])
            for name, value in self._sequences.items():
                connection.execute(_SET_BACK, {"name": name, "value": value})
