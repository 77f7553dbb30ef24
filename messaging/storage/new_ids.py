"""Ids of rows that are known before their insert: no RETURNING, so rows go in by `executemany`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, Table, func, select, text

from messaging.storage import tables

_RESERVE = text("SELECT nextval(:sequence) FROM generate_series(1, :count)")


def reserve_ids(connection: Connection, table: Table, count: int) -> Sequence[int]:
    """`count` new ids.

    On SQLite the caller holds the only write transaction. These tables lose their last row only where a backup
    is put back: then a recovery leaves the highest id that was ever given.
    """
    if connection.dialect.name == "sqlite":
        last: int = connection.execute(_last_id(table)).scalar_one()
        return range(last + 1, last + 1 + count)
    rows = connection.execute(_RESERVE, {"sequence": f"{table.name}_id_seq", "count": count})
    return [row[0] for row in rows]


@cache
def _last_id(table: Table) -> Select[Any]:
    known = select(func.max(table.c.id)).scalar_subquery()
    name = tables.counters.c.name == highest_id_name(table.name)
    given = select(tables.counters.c.value).where(name).scalar_subquery()
    return select(func.max(func.coalesce(known, 0), func.coalesce(given, 0)))


def highest_id_name(table_name: str) -> str:
    return f"{table_name}_highest_id"
