"""The history of delivery reports: one row for each that was understood, also for one that changed nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Executable, Row, Text, bindparam, func, insert, select, update

from messaging.forwarding import events
from messaging.messages import status_events
from messaging.messages.report_effects import MOVED, PARKED, words_of
from messaging.messages.status_events import Event
from messaging.reports import message_state
from messaging.reports.message_state import DeliveryReport, FiledReport
from messaging.storage import tables
from messaging.storage.bulk import JsonRows
from messaging.storage.column_types import UtcDateTime
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
        state = found[message_id]
        took = state.take(_report(row), row.callback_id, now)
        joins.append({"report_id": row.id, "owner_id": message_id, "new_effect": effect or took})
        if took == MOVED:
            detail = words_of(row.word, row.failure_reason)
            happened.append(status_events.Event(message_id, now, state.status, source, None, detail))
    message_state.save(database, connection, found.values(), now)
    connection.execute(_JOIN, joins)
    status_events.record(connection, happened)


def _report(row: Row[Any]) -> DeliveryReport:
    return DeliveryReport(
        row.provider_message_id, row.word, row.recipient, row.failure_reason, row.network, row.retry_count
    )


_CHANGED = JsonRows(
    "changed",
    {
        "message_id": BigInteger(),
        "was": Text(),
        "new_status": Text(),
        "new_reason": Text(),
        "new_network": Text(),
        "new_finished_at": UtcDateTime(),
        "now": UtcDateTime(),
    },
)

_TOLD = JsonRows(
    "told",
    {name: tables.message_events.c[name].type for name in ("message_id", "at", "status", "source", "detail")},
)

_REPORTED = JsonRows(
    "reported", {column.name: column.type for column in tables.delivery_reports.c if column.name != "id"}
)


def write(
    connection: Connection,
    changed: list[dict[str, Any]],
    happened: Sequence[Event],
    rows: list[dict[str, Any]],
) -> None:
    """`changed`: the parameters of `message_state.UPDATE`. `rows`: columns of delivery_reports."""
    if connection.dialect.name == "sqlite":
        if changed:
            connection.execute(message_state.UPDATE, changed)
        status_events.record(connection, happened)
        insert_rows(connection, rows)
        return
    told = [{name: getattr(event, name) for name in _TOLD.names} for event in happened]
    connection.execute(_WRITE_ALL, _CHANGED.given(changed) | _TOLD.given(told) | _REPORTED.given(rows))
    events.note_statuses(connection, happened)


def _write_all() -> Executable:
    """All three in one statement: each question to PostgreSQL is a round trip that every report waits for."""
    new = _CHANGED.table
    moving = (
        update(tables.messages)
        .where(tables.messages.c.id == new.c.message_id, tables.messages.c.status == new.c.was)
        .values(
            status=new.c.new_status,
            reason=new.c.new_reason,
            network=new.c.new_network,
            finished_at=new.c.new_finished_at,
            sent_at=func.coalesce(tables.messages.c.sent_at, new.c.now),
        )
    )
    telling = insert(tables.message_events).from_select(
        _TOLD.names, select(*_TOLD.columns).order_by(_TOLD.place)
    )
    reporting = insert(tables.delivery_reports).from_select(
        _REPORTED.names, select(*_REPORTED.columns).order_by(_REPORTED.place)
    )
    return reporting.add_cte(moving.cte("moving"), telling.cte("telling"))


_WRITE_ALL = _write_all()
