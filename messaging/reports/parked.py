"""Reports of an id that no message has: parked, and joined when AT's answer is recorded.

A report may come before the answer. An answer that never comes leaves the report to `adoption`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from messaging.reports import find
from messaging.reports.message_state import FiledReport
from messaging.reports.settle import settle
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.database import Database

MOST_AT_ONCE = 500

IS_PARKED = tables.delivery_reports.c.message_id.is_(None)
_BY_PROVIDER_ID = (
    select(tables.delivery_reports)
    .where(one_of(tables.delivery_reports.c.provider_message_id, "provider_ids"), IS_PARKED)
    .order_by(tables.delivery_reports.c.id)
    .with_for_update()
)
_JOINED_BY_PROVIDER_ID = (
    select(tables.delivery_reports)
    .join(tables.messages, tables.messages.c.id == tables.delivery_reports.c.message_id)
    .where(tables.messages.c.provider_message_id == tables.delivery_reports.c.provider_message_id)
    .where(one_of(tables.messages.c.provider_message_id, "provider_ids"))
)
_STRAGGLERS = (
    select(tables.messages.c.provider_message_id, tables.messages.c.id)
    .join(
        tables.delivery_reports,
        tables.delivery_reports.c.provider_message_id == tables.messages.c.provider_message_id,
    )
    .where(IS_PARKED)
    .limit(MOST_AT_ONCE)
)


def join_parked(connection: Connection, ids: Mapping[str, int]) -> int:
    """Gives reports that came before AT's answer to their messages; `ids`: message by AT's id. How many.

    The caller has locked `report:<id>` for each and written the ids in this transaction.
    """
    if not ids:
        return 0
    rows = connection.execute(_BY_PROVIDER_ID, {"provider_ids": list(ids)}).all()
    if rows:
        found = find.by_id(connection, {ids[row.provider_message_id] for row in rows})
        pairs = [(found[ids[row.provider_message_id]], FiledReport.from_row(row)) for row in rows]
        settle(connection, pairs, "report")
    return len(rows)


def row_of_callback(connection: Connection, filed: FiledReport) -> Row[Any] | None:
    """By the ways there are indexes for: among the parked, or through its message."""
    ids = {"provider_ids": [filed.report.provider_message_id]}
    looks = (_BY_PROVIDER_ID, _JOINED_BY_PROVIDER_ID)
    rows = (row for look in looks for row in connection.execute(look, ids))
    return next((row for row in rows if row.callback_id == filed.callback_id), None)


def join_stragglers(database: Database) -> int:
    """The sweep's look for reports that the locks, against all expectation, let slip by."""
    with database.read() as connection:
        ids = dict(sorted(tuple(row) for row in connection.execute(_STRAGGLERS)))
    if not ids:
        return 0
    with database.write() as connection:
        return join_parked(connection, ids)
