"""What a group of reports came to, written in as few statements as each store allows.

On PostgreSQL one statement changes the messages, tells their history, counts and keeps the reports: each question is a
round trip. On SQLite each of the three is one statement over JSON, for `executemany` gives up Python's lock at
every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Executable, Text, bindparam, insert, select, update

from messaging.forwarding import events
from messaging.messages import status_counts, status_events
from messaging.messages.status_counts import Tally
from messaging.messages.status_events import Event
from messaging.reports.message_state import DeliveryReport, FiledReport, MessageState
from messaging.storage import tables
from messaging.storage.bulk import JsonRows, as_json_rows, as_stored
from messaging.storage.column_types import UtcDateTime


class Outcome(NamedTuple):
    """A report with what it did, to the message that it found. `message_id` None: it is parked."""

    filed: FiledReport
    message_id: int | None
    effect: str


def write(
    connection: Connection,
    changed: Sequence[MessageState],
    happened: Sequence[Event],
    outcomes: Sequence[Outcome],
    tally: Tally,
) -> None:
    """`outcomes`: in the order the reports came; the messages of `changed` are locked by the caller."""
    new = [one for one in outcomes if one.filed.row_id is None]
    if connection.dialect.name == "sqlite":
        _change_on_sqlite(connection, changed)
        status_events.record(connection, happened, tally)
        _insert_on_sqlite(connection, new)
    else:
        _write_on_postgresql(connection, changed, happened, new, tally)
    _join(connection, [one for one in outcomes if one.filed.row_id is not None])


_JOIN = (
    update(tables.delivery_reports)
    .where(tables.delivery_reports.c.id == bindparam("report_id"))
    .values(message_id=bindparam("owner_id"), effect=bindparam("new_effect"))
)


def _join(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Reports that had a row already; there are few of them."""
    rows = [
        {"report_id": one.filed.row_id, "owner_id": one.message_id, "new_effect": one.effect}
        for one in outcomes
    ]
    if rows:
        connection.execute(_JOIN, rows)


_COLUMNS = ("callback_id", "message_id", "effect", "received_at", *DeliveryReport._fields)
# `was`: only what is still as it was read is changed.
_CHANGE_JSON = """
    UPDATE messages SET status = new.status, reason = new.reason, network = new.network,
        sent_at = new.sent_at, finished_at = new.finished_at
    FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS was,
                 json_extract(value, '$[2]') AS status, json_extract(value, '$[3]') AS reason,
                 json_extract(value, '$[4]') AS network, json_extract(value, '$[5]') AS sent_at,
                 json_extract(value, '$[6]') AS finished_at
          FROM json_each(?)) AS new
    WHERE messages.id = new.id AND messages.status = new.was
"""
_INSERT_JSON = f"""
    INSERT INTO delivery_reports ({", ".join(_COLUMNS)})
    SELECT {", ".join(f"json_extract(value, '$[{place}]')" for place in range(len(_COLUMNS)))}
    FROM json_each(?)
"""  # noqa: S608  (names of our columns)


def _change_on_sqlite(connection: Connection, changed: Sequence[MessageState]) -> None:
    rows = [
        (
            one.message_id,
            one.was,
            one.status,
            one.reason,
            one.network,
            _stored(connection, one.sent_at),
            _stored(connection, one.finished_at),
        )
        for one in changed
    ]
    if rows:
        connection.exec_driver_sql(_CHANGE_JSON, (as_json_rows(rows),))


def _insert_on_sqlite(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    rows = [
        (
            one.filed.callback_id,
            one.message_id,
            one.effect,
            as_stored(connection, one.filed.received_at),
            *one.filed.report,
        )
        for one in outcomes
    ]
    if rows:
        connection.exec_driver_sql(_INSERT_JSON, (as_json_rows(rows),))


def _stored(connection: Connection, at: datetime | None) -> Any:
    return None if at is None else as_stored(connection, at)


_CHANGED = JsonRows(
    "changed",
    {
        "message_id": BigInteger(),
        "was": Text(),
        "status": Text(),
        "reason": Text(),
        "network": Text(),
        "sent_at": UtcDateTime(),
        "finished_at": UtcDateTime(),
    },
)
_TOLD = JsonRows(
    "told",
    {name: tables.message_events.c[name].type for name in ("message_id", "at", "status", "source", "detail")},
)
_REPORTED = JsonRows("reported", {name: tables.delivery_reports.c[name].type for name in _COLUMNS})


def _write_on_postgresql(
    connection: Connection,
    changed: Sequence[MessageState],
    happened: Sequence[Event],
    outcomes: Sequence[Outcome],
    tally: Tally,
) -> None:
    given = [{name: getattr(one, name) for name in _CHANGED.names} for one in changed]
    told = [{name: getattr(event, name) for name in _TOLD.names} for event in happened]
    reported = [
        {
            "callback_id": one.filed.callback_id,
            "message_id": one.message_id,
            "effect": one.effect,
            "received_at": one.filed.received_at,
            **one.filed.report._asdict(),
        }
        for one in outcomes
    ]
    if given or told or reported:
        rows = _CHANGED.given(given) | _TOLD.given(told) | _REPORTED.given(reported)
        rows |= status_counts.given(tally)
        connection.execute(_WRITE_ALL, rows)
    events.note_statuses(connection, happened)


def _write_all() -> Executable:
    new = _CHANGED.table
    changing = (
        update(tables.messages)
        .where(tables.messages.c.id == new.c.message_id, tables.messages.c.status == new.c.was)
        .values(
            status=new.c.status,
            reason=new.c.reason,
            network=new.c.network,
            sent_at=new.c.sent_at,
            finished_at=new.c.finished_at,
        )
    )
    telling = insert(tables.message_events).from_select(
        _TOLD.names, select(*_TOLD.columns).order_by(_TOLD.place)
    )
    reporting = insert(tables.delivery_reports).from_select(
        _REPORTED.names, select(*_REPORTED.columns).order_by(_REPORTED.place)
    )
    return reporting.add_cte(
        changing.cte("changing"), telling.cte("telling"), status_counts.INSERT_GIVEN.cte("counting")
    )


_WRITE_ALL = _write_all()
