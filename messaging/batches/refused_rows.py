"""What of a file was not taken, or was doubtful: kept for as long as the texts of the others."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update

from messaging.batches.rows import DUPLICATE
from messaging.storage import tables
from messaging.storage.database import Database

# Small, so that callbacks that come in meanwhile do not wait long for the one writer of SQLite.
CHUNK = 1000


def list_first(database: Database, batch_id: int, limit: int) -> list[dict[str, Any]]:
    """By line, without the duplicates: `line`, `value` (the cell) and `reason` in words."""
    rows = tables.refused_rows.c
    statement = (
        select(rows.line, rows.value, rows.reason)
        .where(rows.batch_id == batch_id, rows.code != DUPLICATE)
        .order_by(rows.line)
        .limit(limit)
    )
    with database.read() as connection:
        return [row._asdict() for row in connection.execute(statement)]


def forget_old(database: Database, before: datetime) -> int:
    """Deletes those of batches made `before`; how many."""
    with database.write() as connection:
        dated = (tables.WITH_WARNINGS, tables.batches.c.created_at < before)
        connection.execute(update(tables.batches).where(*dated).values(warnings=None))
    deleted = 0
    while count := _forget_some(database, before):
        deleted += count
    return deleted


def _forget_some(database: Database, before: datetime) -> int:
    with database.write() as connection:
        # Ids rise with time, so the first batch that has any is the oldest.
        batch_id = connection.execute(select(func.min(tables.refused_rows.c.batch_id))).scalar()
        created_at = connection.execute(
            select(tables.batches.c.created_at).where(tables.batches.c.id == batch_id)
        ).scalar()
        if created_at is None or created_at >= before:
            return 0
        ours = tables.refused_rows.c.batch_id == batch_id
        lines = (
            select(tables.refused_rows.c.line).where(ours).order_by(tables.refused_rows.c.line).limit(CHUNK)
        )
        last = select(func.max(lines.subquery().c.line)).scalar_subquery()
        return connection.execute(
            delete(tables.refused_rows).where(ours, tables.refused_rows.c.line <= last)
        ).rowcount
