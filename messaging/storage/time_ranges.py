"""Ids for times: ids rise with the time of a row, so that a range of time needs no index of its own."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, func, select

# But for transactions that overlap and for a clock that is set back.
CLOCK_SLACK = timedelta(hours=1)


def within(
    connection: Connection, table: Table, at: Column[Any], since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """Conditions: the time itself, and the ids that can have it. `since` is included, `until` is not."""
    conditions: list[ColumnElement[bool]] = []
    if since is not None:
        first_id = first_id_from(connection, table, at, since - CLOCK_SLACK)
        conditions += [at >= since, table.c.id >= first_id]
    if until is not None:
        first_id = first_id_from(connection, table, at, until + CLOCK_SLACK)
        conditions += [at < until, table.c.id < first_id]
    return conditions


def first_id_from(connection: Connection, table: Table, at: Column[Any], moment: datetime) -> int:
    """The first id of `moment` or later, by halving: some twenty look-ups by key in a million rows."""
    low, high = _range(connection, table)
    while low < high:
        middle = (low + high) // 2
        statement = select(table.c.id, at.label("at")).where(table.c.id >= middle)
        row = connection.execute(statement.order_by(table.c.id).limit(1)).one_or_none()
        if row is None or row.at >= moment:
            high = middle
        else:
            low = row.id + 1
    return low


def _range(connection: Connection, table: Table) -> tuple[int, int]:
    # Apart: SQLite answers either by the key, but both together by reading the table.
    ends = (func.min(table.c.id), func.max(table.c.id))
    lowest, highest = connection.execute(select(*(select(end).scalar_subquery() for end in ends))).one()
    return lowest or 0, (highest or 0) + 1
