"""Whether a message is due, by the clock that its `due_at` goes by."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, bindparam, case

from messaging.storage import tables
from messaging.storage.clocks import steady

_due_at = tables.messages.c.due_at
_wall_now, _steady_now, _latest_now = (
    bindparam(name, type_=_due_at.type) for name in ("wall_now", "steady_now", "latest_now")
)
# The first condition is there for the index, which knows nothing of the second.
IS_DUE = (
    _due_at <= _latest_now,
    _due_at <= case((tables.messages.c.due_by_wall, _wall_now), else_=_steady_now),
)


def due_now(connection: Connection, now: datetime) -> dict[str, datetime]:
    """The parameters of `IS_DUE`. `now`: the wall clock."""
    steady_now = steady(connection, now)
    return {"wall_now": now, "steady_now": steady_now, "latest_now": max(now, steady_now)}
