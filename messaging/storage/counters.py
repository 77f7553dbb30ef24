"""Numbers that are only counted: a row for each name, which several processes add to."""

from __future__ import annotations

from sqlalchemy import Connection, select

from messaging.storage import tables
from messaging.storage.bulk import insert_for


def add(connection: Connection, name: str, number: int) -> None:
    """Whoever adds often does so in groups: all who add to one name wait for each other's commit."""
    statement = insert_for(connection, tables.counters).values(name=name, value=number)
    added = {"value": tables.counters.c.value + number}
    connection.execute(statement.on_conflict_do_update(index_elements=[tables.counters.c.name], set_=added))


def read(connection: Connection, name: str) -> int:
    """0 where nothing was counted yet."""
    statement = select(tables.counters.c.value).where(tables.counters.c.name == name)
    return connection.execute(statement).scalar_one_or_none() or 0
