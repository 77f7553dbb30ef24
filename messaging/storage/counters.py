"""Numbers that are only counted, or the last of their kind: a row for each name."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from messaging.storage import tables
from messaging.storage.bulk import insert_for

_LONGEST_NAME = 40


def add(connection: Connection, name: str, number: int) -> None:
    """Whoever adds often does so in groups: all who add to one name wait for each other's commit."""
    add_all(connection, {name: number})


def add_all(connection: Connection, numbers: Mapping[str, int]) -> None:
    _write(connection, numbers, is_sum=True)


def put(connection: Connection, name: str, value: int) -> None:
    _write(connection, {name: value}, is_sum=False)


def _write(connection: Connection, numbers: Mapping[str, int], *, is_sum: bool) -> None:
    # In one order, so that two who add to several names cannot wait for each other.
    rows = [{"name": name[:_LONGEST_NAME], "value": numbers[name]} for name in sorted(numbers)]
    if rows:
        new = insert_for(connection, tables.counters)
        value = tables.counters.c.value + new.excluded.value if is_sum else new.excluded.value
        names = [tables.counters.c.name]
        connection.execute(new.on_conflict_do_update(index_elements=names, set_={"value": value}), rows)


def read(connection: Connection, name: str) -> int:
    """0 where nothing was counted yet."""
    statement = select(tables.counters.c.value).where(tables.counters.c.name == name)
    return connection.execute(statement).scalar_one_or_none() or 0


def read_all(connection: Connection) -> dict[str, int]:
    """There are some dozens."""
    rows = connection.execute(select(tables.counters.c.name, tables.counters.c.value))
    return {row.name: row.value for row in rows}
