"""The append-only history of messages: one row for every change of a status, in the order they happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from messaging import forward_events
from messaging.bulk_inserts import as_stored, insert_rows
from messaging.models import message_events
from messaging.value_lists import as_array

CHUNK = 1000
_COLUMNS = ("message_id", "at", "status", "source", "attempt_id", "detail")
# One statement and one round trip, which COPY is not: mostly there is a handful of events.
_INSERT_ALL = text(
    """
    INSERT INTO message_events (message_id, at, status, source, attempt_id, detail)
    SELECT * FROM unnest(CAST(:message_id AS bigint[]), CAST(:at AS timestamptz[]), CAST(:status AS text[]),
                         CAST(:source AS text[]), CAST(:attempt_id AS bigint[]), CAST(:detail AS text[]))
    """
)


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
        (one.message_id, as_stored(connection, one.at), one.status, one.source, one.attempt_id, one.detail)
        for one in happened
    ]
    for start in range(0, len(rows), CHUNK):
        _insert(connection, rows[start : start + CHUNK])
    forward_events.note_statuses(connection, happened)


def _insert(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    if connection.dialect.name == "sqlite":
        insert_rows(connection, message_events, _COLUMNS, rows)
    else:
        columns = zip(_COLUMNS, zip(*rows, strict=True), strict=True)
        connection.execute(_INSERT_ALL, {name: as_array(values) for name, values in columns})
