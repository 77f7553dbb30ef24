"""The history of one message: its start, each POST, each change, each report, in the order they happened."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from messaging import statuses
from messaging.messages.report_effects import ADOPTED, MOVED, words_of
from messaging.storage import tables
from utils.json_shapes import rfc3339

TRIGGER_ORIGIN = "trigger"
# Effects of a report that stand in the history as an event, and the sources of such events.
CHANGING = (MOVED, ADOPTED)
REPORTED = ("report", "inferred")
_Entry = tuple[datetime, dict[str, Any]]


def history_of(connection: Connection, message: Row[Any]) -> list[dict[str, Any]]:
    events = connection.execute(
        select(tables.message_events)
        .where(tables.message_events.c.message_id == message.id)
        .order_by(tables.message_events.c.id)
    ).all()
    reports = connection.execute(
        select(tables.delivery_reports)
        .where(tables.delivery_reports.c.message_id == message.id)
        .order_by(tables.delivery_reports.c.id)
    ).all()
    callbacks = _callbacks_of_changes(reports)
    attempt_ids = {row.attempt_id for row in events} | {message.attempt_id}
    entries = [
        _entry(message.created_at, statuses.QUEUED, message.origin, None),
        *_posts(connection, attempt_ids - {None}),
        *(
            _entry(row.at, row.status, row.source, row.detail, _take_callback(callbacks, row))
            for row in events
        ),
        *_reports(reports),
    ]
    # Stable: of two things in one microsecond the one named first above comes first.
    return [entry for _, entry in sorted(entries, key=lambda pair: pair[0])]


def _posts(connection: Connection, attempt_ids: set[int]) -> list[_Entry]:
    statement = select(tables.attempts).where(
        tables.attempts.c.id.in_(attempt_ids), tables.attempts.c.posting_at.is_not(None)
    )
    statement = statement.order_by(tables.attempts.c.posting_at, tables.attempts.c.id)
    return [
        _entry(
            row.posting_at,
            statuses.SENDING,
            TRIGGER_ORIGIN if row.is_trigger else "worker",
            f"posted to the provider, try {number} (attempt id {row.id})",
        )
        for number, row in enumerate(connection.execute(statement), 1)
    ]


def _reports(reports: Sequence[Row[Any]]) -> list[_Entry]:
    """Those that changed nothing; the others stand in the history as what they changed."""
    return [
        _entry(row.received_at, None, "report", _report_detail(row), row.callback_id)
        for row in reports
        if row.effect not in CHANGING
    ]


def _callbacks_of_changes(reports: Sequence[Row[Any]]) -> dict[str, deque[int]]:
    """The callbacks of those that changed something, by what they say: an event has the words of its report."""
    found: dict[str, deque[int]] = {}
    for row in reports:
        if row.effect in CHANGING:
            found.setdefault(words_of(row.word, row.failure_reason), deque()).append(row.callback_id)
    return found


def _take_callback(callbacks: dict[str, deque[int]], event: Row[Any]) -> int | None:
    waiting = callbacks.get(event.detail) if event.source in REPORTED else None
    return waiting.popleft() if waiting else None


def _report_detail(row: Row[Any]) -> str:
    return f"{words_of(row.word, row.failure_reason)} ({row.effect})"


def _entry(
    at: datetime, status: str | None, source: str, detail: str | None, callback_id: int | None = None
) -> _Entry:
    """`callback_id` only where a callback said it."""
    shape = {"at": rfc3339(at), "status": status, "source": source, "detail": detail}
    return at, shape if callback_id is None else shape | {"callback_id": callback_id}
