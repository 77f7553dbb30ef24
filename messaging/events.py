"""The append-only history of messages: one row for every change of a status, in the order they happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert

from messaging import forward_events
from messaging.models import message_events

_INSERT = insert(message_events)
CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Event:
    message_id: int
    at: datetime
    status: str
    source: str
    attempt_id: int | None = None
    detail: str | None = None


def record(connection: Connection, happened: Sequence[Event]) -> None:
    """The messages' rows are written already: what is forwarded is read from them."""
    rows = [
        {
            "message_id": event.message_id,
            "at": event.at,
            "status": event.status,
            "source": event.source,
            "attempt_id": event.attempt_id,
            "detail": event.detail,
        }
        for event in happened
    ]
    for start in range(0, len(rows), CHUNK):
        connection.execute(_INSERT, rows[start : start + CHUNK])
    forward_events.note_statuses(connection, happened)
