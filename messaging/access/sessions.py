"""Logins that are open: a random token in the browser's cookie, its hash here, so that each can be listed and ended."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, not_, select, update

from messaging.access import actions
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.errors import NotFound
from utils.json_shapes import LARGEST_ID, rfc3339
from utils.tokens import digest_of

IDLE = timedelta(hours=12)
LONGEST = timedelta(days=7)
# A page that polls would else write each time.
SEEN_WRITTEN_EVERY = timedelta(minutes=1)
LONGEST_AGENT = 200


def begin(database: Database, operator: str, address: str | None, agent: str) -> str:
    """The token."""
    token = secrets.token_urlsafe(32)
    with database.write(settled=True) as connection:
        now = wall_clock(connection)
        row = {
            "digest": digest_of(token),
            "operator": operator,
            "address": address,
            "agent": agent[:LONGEST_AGENT].replace("\0", ""),
            "created_at": now,
            "seen_at": now,
        }
        connection.execute(insert(tables.sessions).values(**row))
    return token


def find(database: Database, token: str) -> tuple[int, str] | None:
    """Its id, and the operator's name."""
    with database.read() as connection:
        now = wall_clock(connection)
        ours = tables.sessions.c.digest == digest_of(token), _is_open(now)
        row = connection.execute(select(tables.sessions).where(*ours)).one_or_none()
    if row is None:
        return None
    if now - row.seen_at > SEEN_WRITTEN_EVERY:
        with database.write() as connection:
            seen = update(tables.sessions).where(tables.sessions.c.id == row.id).values(seen_at=now)
            connection.execute(seen)
    return row.id, row.operator


def end(database: Database, session_id: int, operator: str | None = None) -> None:
    """`operator`: only theirs. Raises NotFound."""
    ours = [tables.sessions.c.id == min(session_id, LARGEST_ID)]
    if operator is not None:
        ours.append(tables.sessions.c.operator == operator)
    with database.write(settled=True) as connection:
        row = connection.execute(select(tables.sessions).where(*ours)).one_or_none()
        if row is None:
            raise NotFound("There is no such session")
        connection.execute(delete(tables.sessions).where(*ours))
        actions.note(connection, "session.end", f"operator:{row.operator}", _in_json(row))


def end_all(connection: Connection, operator: str) -> None:
    theirs = tables.sessions.c.operator == operator
    ended = connection.execute(delete(tables.sessions).where(theirs)).rowcount
    if ended:
        actions.note(connection, "session.end", f"operator:{operator}", {"sessions": ended})


def list_sessions(database: Database, operator: str | None = None) -> list[dict[str, Any]]:
    """Open ones, last seen first."""
    statement = select(tables.sessions).order_by(tables.sessions.c.seen_at.desc())
    if operator is not None:
        statement = statement.where(tables.sessions.c.operator == operator)
    with database.read() as connection:
        rows = connection.execute(statement.where(_is_open(wall_clock(connection)))).all()
    return [_in_json(row) for row in rows]


def forget_old(connection: Connection, now: datetime) -> None:
    connection.execute(delete(tables.sessions).where(not_(_is_open(now))))


def _is_open(now: datetime) -> ColumnElement[bool]:
    return and_(tables.sessions.c.seen_at >= now - IDLE, tables.sessions.c.created_at >= now - LONGEST)


def _in_json(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "operator": row.operator,
        "address": row.address,
        "agent": row.agent,
        "created_at": rfc3339(row.created_at),
        "seen_at": rfc3339(row.seen_at),
    }
