"""The append-only history of messages: one row for every change of a status, in the order they happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text, update

from messaging.forwarding import events
from messaging.messages import status_counts
from messaging.messages.status_counts import Tally
from messaging.storage import tables
from messaging.storage.bulk import as_array, as_json_rows, as_stored, one_of

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
_INSERT_AND_COUNT = text(f"WITH counting AS ({status_counts.COUNTING}) {_INSERT_ALL.text}")
_INSERT_JSON = """
    INSERT INTO message_events (message_id, at, status, source, attempt_id, detail)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
           json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]')
    FROM json_each(?)
"""


class Event(NamedTuple):
    message_id: int
    at: datetime
    status: str
    source: str
    attempt_id: int | None = None
    detail: str | None = None


def record(connection: Connection, happened: Sequence[Event], tally: Tally | None = None) -> None:
    """The messages' rows are written already: what is forwarded, and without `tally` counted, is read from them."""
    rows = list(_rows(connection, happened))
    for start in range(0, len(rows), CHUNK):
        _insert(connection, rows[start : start + CHUNK], None if start else tally)
    if tally is None:
        status_counts.append_from_rows(connection, happened)
    events.note_statuses(connection, happened)


def _rows(connection: Connection, happened: Sequence[Event]) -> Iterator[tuple[Any, ...]]:
    at, stored = None, None
    for one in happened:
        # What is written together happened, nearly always, at one time: made storable once.
        if one.at is not at:
            at, stored = one.at, as_stored(connection, one.at)
        yield one.message_id, stored, one.status, one.source, one.attempt_id, one.detail


def _insert(connection: Connection, rows: Sequence[tuple[Any, ...]], tally: Tally | None) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_INSERT_JSON, (as_json_rows(rows),))
        status_counts.append(connection, tally or Tally())
        return
    columns = zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    arrays = {name: as_array(values) for name, values in columns}
    if tally:
        connection.execute(_INSERT_AND_COUNT, arrays | status_counts.given(tally))
    else:
        connection.execute(_INSERT_ALL, arrays)


def settle(
    connection: Connection,
    ids: Sequence[int],
    status: str,
    reason: str,
    now: datetime,
    source: str = "worker",
    detail: str | None = None,
) -> None:
    """Gives messages a last status, the reason and the event, which tells `detail`, or else the reason.

    The caller has seen that they may take it.
    """
    if not ids:
        return
    values = {"status": status, "reason": reason, "finished_at": now}
    connection.execute(
        update(tables.messages).where(one_of(tables.messages.c.id, "ids")).values(**values), {"ids": ids}
    )
    record(connection, [Event(one, now, status, source, None, detail or reason) for one in ids])
