"""The messages that reports are about, read and locked in one statement for a whole group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, select

from messaging.reports.message_state import MessageState
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.database import lock_keys

APPLYING = "apply_reports"
_COLUMNS = (
    tables.messages.c.id,
    tables.messages.c.provider_message_id,
    tables.messages.c.recipient,
    tables.messages.c.sender_id,
    tables.messages.c.status,
    tables.messages.c.reason,
    tables.messages.c.network,
    tables.messages.c.sent_at,
    tables.messages.c.finished_at,
)


def _locking(statement: Select[Any]) -> dict[str, Select[Any]]:
    """In the order of ids, so that two groups with messages in common cannot wait for each other.

    Not on SQLite: nobody else writes, and for the order's sake it would read the whole table by id.
    """
    return {"sqlite": statement, "postgresql": statement.order_by(tables.messages.c.id).with_for_update()}


_BY_PROVIDER_ID = _locking(
    select(*_COLUMNS).where(one_of(tables.messages.c.provider_message_id, "provider_ids"))
)
_BY_ID = _locking(select(*_COLUMNS).where(one_of(tables.messages.c.id, "ids")))


def by_provider_id(connection: Connection, provider_ids: Iterable[str]) -> dict[str, list[MessageState]]:
    """By AT's id: usually one message each; should AT ever give an id twice, all that have it.

    An id that is not found stays ours alone until the commit. Whoever records AT's answer takes the same lock
    before it looks among the parked: so either it sees the report we park, or we see, at the second look, the
    id it wrote.
    """
    wanted = set(provider_ids)
    found = _look_up(connection, wanted)
    missing = wanted - found.keys()
    if missing and connection.dialect.name != "sqlite":
        lock_keys(connection, [f"report:{provider_id}" for provider_id in missing])
        found |= _look_up(connection, missing)
    return found


def by_id(connection: Connection, ids: Iterable[int]) -> dict[int, MessageState]:
    rows = connection.execute(_BY_ID[connection.dialect.name], {"ids": list(ids)})
    return {row.id: MessageState(row) for row in rows}


def take_turn(connection: Connection) -> None:
    """Reports are applied, and adopted, by one transaction at a time; the lock ends with it, or with its process.

    Two at once could each park a report of the other's message, or both adopt. On SQLite the write transaction is
    that lock.
    """
    lock_keys(connection, [APPLYING])


def _look_up(connection: Connection, provider_ids: Iterable[str]) -> dict[str, list[MessageState]]:
    found: dict[str, list[MessageState]] = {}
    statement = _BY_PROVIDER_ID[connection.dialect.name]
    for row in connection.execute(statement, {"provider_ids": list(provider_ids)}):
        found.setdefault(row.provider_message_id, []).append(MessageState(row))
    return found
