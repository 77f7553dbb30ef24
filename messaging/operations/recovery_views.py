"""What a person is told of witnesses and recoveries, in doctor, audit, readiness and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from utils.json_shapes import rfc3339

# A process looks at its folder several times a minute. What a dead one said of it counts no more.
SAID_LATELY = timedelta(minutes=3)


def latest_recoveries(connection: Connection, most: int) -> Sequence[Any]:
    newest = select(tables.recoveries).order_by(tables.recoveries.c.id.desc())
    return connection.execute(newest.limit(most)).all()


def sentence_of(recovery: Any) -> str:
    """From when to when records are missing, what is known to have left then, and what nobody can bring back."""
    gap = f"{rfc3339(recovery.gap_from or recovery.opened_at)} to {rfc3339(recovery.opened_at)}"
    if recovery.closed_at is None:
        return f"the database went backwards ({recovery.reason}), records are missing from {gap}; nothing is sent yet"
    known = [
        f"{recovery.posts} POSTs had left",
        f"{recovery.unknown} messages became unknown",
        f"{recovery.without_row} texts have no row any more",
        f"{recovery.held} messages are held",
    ]
    inbox = (
        "AT's inbox could not be read" if recovery.fetched is None else f"{recovery.fetched} texts fetched"
    )
    return (
        f"the database went backwards ({recovery.reason}), records are missing from {gap}: {', '.join(known)},"
        f" {inbox}. What was accepted then and had not left, and opt-outs by hand or API, are lost: see to them"
    )


def open_recovery(connection: Connection) -> Any:
    """None where there is none."""
    found = latest_recoveries(connection, 1)
    return found[0] if found and found[0].closed_at is None else None


def unwritable(connection: Connection) -> dict[str, str]:
    """Why by host and folder."""
    since: datetime = wall_clock(connection) - SAID_LATELY
    folders = tables.witness_folders.c
    said = select(folders.host, folders.path, folders.problem).where(
        folders.problem.is_not(None), folders.seen_at >= since
    )
    return {f"{row.host}:{row.path}": row.problem for row in connection.execute(said)}


def totals(connection: Connection) -> tuple[int, int]:
    """How many recoveries there were, and how many messages they made unknown."""
    found = select(func.count(), func.coalesce(func.sum(tables.recoveries.c.unknown), 0))
    row = connection.execute(found.select_from(tables.recoveries)).one()
    return int(row[0]), int(row[1])
