"""The history of delivery reports: one row for each that was understood, also for one that changed nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, update

from messaging.messages import status_events
from messaging.messages.report_effects import MOVED, PARKED, words_of
from messaging.reports import message_state
from messaging.reports.message_state import FiledReport, Report
from messaging.storage import tables
from messaging.storage.database import Database

IS_PARKED = tables.delivery_reports.c.message_id.is_(None)

_INSERT = insert(tables.delivery_reports)
_JOIN = (
    update(tables.delivery_reports)
    .where(tables.delivery_reports.c.id == bindparam("report_id"))
    .values(message_id=bindparam("owner_id"), effect=bindparam("new_effect"))
)


def row_of(filed: FiledReport, message_id: int | None = None, effect: str = PARKED) -> dict[str, Any]:
    return {
        **filed.report._asdict(),
        "callback_id": filed.callback_id,
        "message_id": message_id,
        "effect": effect,
        "received_at": filed.received_at,
    }


def insert_rows(connection: Connection, rows: list[dict[str, Any]]) -> None:
    connection.execute(_INSERT, rows)


def settle(
    database: Database,
    connection: Connection,
    pairs: Sequence[tuple[int, Row[Any]]],
    source: str,
    effect: str | None = None,
) -> None:
    """Applies parked reports, in the order they came, to the messages that turned out to be theirs.

    What they change happens now, not when they came, so it is an event of its own; the report keeps its time.
    """
    now = database.now(connection)
    found = message_state.find_by_id(connection, {message_id for message_id, _ in pairs})
    joins, happened = [], []
    for message_id, row in pairs:
        standing = found[message_id]
        took = standing.take(_report(row), row.callback_id, now)
        joins.append({"report_id": row.id, "owner_id": message_id, "new_effect": effect or took})
        if took == MOVED:
            detail = words_of(row.word, row.failure_reason)
            happened.append(status_events.Event(message_id, now, standing.status, source, None, detail))
    message_state.save(database, connection, found.values(), now)
    connection.execute(_JOIN, joins)
    status_events.record(connection, happened)


def _report(row: Row[Any]) -> Report:
    return Report(
        row.provider_message_id, row.word, row.recipient, row.failure_reason, row.network, row.retry_count
    )
