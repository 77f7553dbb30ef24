"""The journal of callbacks, as every skin shows it. Reads only."""

from __future__ import annotations

import base64
from typing import Any

from sqlalchemy import Row, select

from messaging.storage import tables
from messaging.storage.database import Database
from utils.errors import NotFound
from utils.json_shapes import LARGEST_ID, decode_cursor, page, rfc3339

# Of one message: AT repeats itself, but each body is kept once.
MOST_SHOWN = 50


def list_callbacks(
    database: Database,
    kind: str | None = None,
    outcome: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """A page, newest first. Raises InvalidInput for a bad cursor."""
    before = decode_cursor(cursor)
    equal = {tables.callbacks.c.kind: kind, tables.callbacks.c.outcome: outcome}
    conditions = [column == wanted for column, wanted in equal.items() if wanted is not None]
    if before is not None:
        conditions.append(tables.callbacks.c.id < before)
    statement = (
        select(tables.callbacks).where(*conditions).order_by(tables.callbacks.c.id.desc()).limit(limit + 1)
    )
    with database.read() as connection:
        rows = connection.execute(statement).all()
    return page([callback_in_json(row) for row in rows], limit)


def reports_about(database: Database, message_id: int) -> dict[int, dict[str, Any]]:
    """The callbacks whose reports belong to a message, the first `MOST_SHOWN`, by their id."""
    reports = tables.delivery_reports.c
    ids = select(reports.callback_id).where(reports.message_id == message_id)
    statement = select(tables.callbacks).where(tables.callbacks.c.id.in_(ids))
    with database.read() as connection:
        rows = connection.execute(statement.order_by(tables.callbacks.c.id).limit(MOST_SHOWN)).all()
    return {row.id: callback_in_json(row) for row in rows}


def callback_in_json(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "outcome": row.outcome,
        "detail": row.detail,
        "count": row.count,
        "content_type": row.content_type,
        **_body_in_json(bytes(row.body)),
        "received_at": rfc3339(row.received_at),
        "last_seen_at": rfc3339(row.last_seen_at),
    }


def _body_in_json(body: bytes) -> dict[str, str | None]:
    """The raw body as text; what is not UTF-8 as base64 instead."""
    try:
        return {"body": body.decode(), "body_base64": None}
    except UnicodeDecodeError:
        return {"body": None, "body_base64": base64.b64encode(body).decode()}


def require_callback(database: Database, callback_id: int) -> None:
    """Raises NotFound."""
    with database.read() as connection:
        statement = select(tables.callbacks.c.id).where(tables.callbacks.c.id == min(callback_id, LARGEST_ID))
        if connection.execute(statement).first() is None:
            raise NotFound(f"There is no callback {callback_id}")
