"""Whether a message is due, by the clock that its `due_at` goes by."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case

from messaging.storage import tables
from messaging.storage.clocks import steady

_wall_now, _steady_now, _latest_now = (
    bindparam(name, type_=tables.messages.c.due_at.type) for name in ("wall_now", "steady_now", "latest_now")
)


def is_due(messages: Any) -> tuple[ColumnElement[bool], ...]:
    """Of the table or an alias of it. Asked with the parameters of `due_now`."""
    due_at = messages.c.due_at
    # The first condition is there for the index, which knows nothing of the second.
    return (
        due_at <= _latest_now,
        due_at <= case((messages.c.due_by_wall, _wall_now), else_=_steady_now),
    )


IS_DUE = is_due(tables.messages)


def due_now(connection: Connection, now: datetime) -> dict[str, datetime]:
    """`now`: the wall clock."""
    steady_now = steady(connection, now)
    return {"wall_now": now, "steady_now": steady_now, "latest_now": max(now, steady_now)}
