"""What persons and keys changed: who, what, before, after, when, from where. Rows are added and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from messaging.access.actor import acting
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.json_shapes import decode_cursor, page, rfc3339

State = Mapping[str, Any]


def note(
    connection: Connection,
    action: str,
    subject: str,
    before: State | None = None,
    after: State | None = None,
) -> None:
    """Writes it in the transaction of the change itself. `action`: `batch.pause`; `subject`: `batch:7`.

    What the service does by itself is no action of anybody.
    """
    actor = acting.get()
    if actor is None:
        return
    row = {
        "at": wall_clock(connection),
        "actor": actor.name,
        "address": actor.address,
        "action": action,
        "subject": subject,
        "before": _as_json(before),
        "after": _as_json(after),
    }
    connection.execute(insert(tables.actions).values(**row))


def list_actions(
    database: Database,
    actor: str | None = None,
    subject: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """A page, newest first. Raises InvalidInput for a bad cursor."""
    before = decode_cursor(cursor)
    statement = select(tables.actions).order_by(tables.actions.c.id.desc()).limit(limit + 1)
    wanted = {tables.actions.c.actor: actor, tables.actions.c.subject: subject}
    conditions = [column == value for column, value in wanted.items() if value is not None]
    if before is not None:
        conditions.append(tables.actions.c.id < before)
    with database.read() as connection:
        rows = connection.execute(statement.where(*conditions)).all()
    return page([_in_json(row) for row in rows], limit)


def _as_json(state: State | None) -> str | None:
    return None if state is None else json.dumps(state, ensure_ascii=False, separators=(",", ":"))


def _in_json(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": rfc3339(row.at),
        "actor": row.actor,
        "address": row.address,
        "action": row.action,
        "subject": row.subject,
        "before": None if row.before is None else json.loads(row.before),
        "after": None if row.after is None else json.loads(row.after),
    }
