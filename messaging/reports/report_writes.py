"""What a group of reports comes to, written: the messages that moved, their history, the reports themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Executable, Text, func, insert, select, update

from messaging.forwarding import events as forward_events
from messaging.messages import status_events
from messaging.messages.status_events import Event
from messaging.reports import message_state
from messaging.reports import rows as report_rows
from messaging.storage import tables
from messaging.storage.column_types import UtcDateTime
from messaging.storage.json_rows import JsonRows

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
    """`changed`: the parameters of `standings.UPDATE`. `rows`: columns of delivery_reports."""
    if connection.dialect.name == "sqlite":
        if changed:
            connection.execute(message_state.UPDATE, changed)
        status_events.record(connection, happened)
        report_rows.insert_rows(connection, rows)
        return
    told = [{name: getattr(event, name) for name in _TOLD.names} for event in happened]
    connection.execute(_WRITE_ALL, _CHANGED.given(changed) | _TOLD.given(told) | _REPORTED.given(rows))
    forward_events.note_statuses(connection, happened)


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
