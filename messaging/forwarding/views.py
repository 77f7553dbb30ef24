"""Forwarding as every skin shows it: how the receiver is doing, and the log of events."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, select

from messaging.forwarding import outbox, receiver_state
from messaging.forwarding.events import WAITING
from messaging.storage import tables
from messaging.storage.clocks import by_wall
from messaging.storage.database import Database
from utils.json_shapes import decode_cursor, encode_cursor, rfc3339
from utils.setting_types import join_host
from utils.settings import Settings

OFF, ON, FAILING, PAUSED = "off", "on", "failing", "paused"
# Written out, so that SQLite takes the partial indexes.
_OF_STATE: dict[str, Any] = {
    WAITING: tables.TO_FORWARD,
    outbox.FAILED: tables.NOT_FORWARDED,
    outbox.DELIVERED: tables.forward_events.c.state == outbox.DELIVERED,
}


def show_forwarding(
    settings: Settings,
    database: Database,
    state: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """How it stands, and a page of events, newest first, of one `state` or all. Raises InvalidInput (cursor)."""
    before = decode_cursor(cursor)
    statement = select(tables.forward_events).order_by(tables.forward_events.c.id.desc()).limit(limit + 1)
    if state is not None:
        statement = statement.where(_OF_STATE[state])
    if before is not None:
        statement = statement.where(tables.forward_events.c.id < before)
    with database.read() as connection:
        receiver = state_of(settings, connection)
        rows = connection.execute(statement).all()
        shown = rows[:limit]
        items = [_in_json(connection, row) for row in shown]
    next_cursor = encode_cursor(shown[-1].id) if len(rows) > limit else None
    return {**receiver, "items": items, "next_cursor": next_cursor}


def state_of(settings: Settings, connection: Connection) -> dict[str, Any]:
    row = receiver_state.look(connection)
    url = settings.forward_url
    if row is not None and (url is None or row.receiver != receiver_state.receiver_of(url)):
        # What is known of another receiver says nothing of this one.
        row = None
    failing_since = None if row is None else row.failing_since
    return {
        "state": _state(url, row),
        "receiver": None if url is None else _receiver(url),
        "reason": None if row is None else row.reason,
        "failing_since": None if failing_since is None else rfc3339(by_wall(connection, failing_since)),
        "paused_at": _time(row, "paused_at"),
        "succeeded_at": _time(row, "succeeded_at"),
        "counts": outbox.count_by_state(connection),
    }


def _state(url: str | None, row: Row[Any] | None) -> str:
    if url is None:
        return OFF
    if row is None:
        return ON
    return PAUSED if row.paused_at else FAILING if row.failing_since else ON


def _receiver(url: str) -> str:
    """Scheme and host: a path or a query of such a URL is often its secret."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{join_host(host, parts.port) if parts.port else host}"


def _time(row: Row[Any] | None, name: str) -> str | None:
    moment: datetime | None = None if row is None else getattr(row, name)
    return rfc3339(moment)


def _in_json(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.event_id,
        "type": row.type,
        "state": row.state,
        "attempts": row.attempts,
        "http_status": row.http_status,
        "last_error": row.last_error,
        "created_at": rfc3339(row.created_at),
        "next_attempt_at": rfc3339(by_wall(connection, row.due_at)) if row.state == WAITING else None,
        "finished_at": rfc3339(row.finished_at),
    }
