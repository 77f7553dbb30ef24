"""Reports of an id that no message has: parked, and joined when AT's answer is recorded.

A report may come before the answer. An answer that never comes leaves the report to `adoption`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from messaging.messages.report_effects import UNKNOWN_WORD
from messaging.reports import message_state, rows
from messaging.reports.adoption import AmbiguousReport, adopt_by_number, ambiguous_reports
from messaging.reports.message_state import FiledReport, MessageState
from messaging.reports.rows import IS_PARKED, settle
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.database import Database, lock_keys

__all__ = [
    "AmbiguousReport",
    "adopt_by_number",
    "ambiguous_reports",
    "apply_again",
    "find_messages",
    "join_parked",
    "join_stragglers",
]

MOST_AT_ONCE = 500


_PARKED_BY_PROVIDER_ID = (
    select(tables.delivery_reports)
    .where(one_of(tables.delivery_reports.c.provider_message_id, "provider_ids"), IS_PARKED)
    .order_by(tables.delivery_reports.c.id)
    .with_for_update()
)
_BY_OWNER = select(tables.delivery_reports).where(one_of(tables.delivery_reports.c.message_id, "owners"))
_STRAGGLERS = (
    select(tables.messages.c.provider_message_id, tables.messages.c.id)
    .join(
        tables.delivery_reports,
        tables.delivery_reports.c.provider_message_id == tables.messages.c.provider_message_id,
    )
    .where(IS_PARKED)
    .limit(MOST_AT_ONCE)
)


def join_parked(database: Database, connection: Connection, ids: Mapping[str, int]) -> int:
    """Gives reports that came before AT's answer to their messages; `ids`: message by AT's id. How many.

    The caller has locked `report:<id>` for each and written the ids in this transaction.
    """
    if not ids:
        return 0
    parked = connection.execute(_PARKED_BY_PROVIDER_ID, {"provider_ids": list(ids)}).all()
    if parked:
        settle(database, connection, [(ids[row.provider_message_id], row) for row in parked], "report")
    return len(parked)


def find_messages(connection: Connection, provider_ids: Iterable[str]) -> dict[str, list[MessageState]]:
    """By AT's id. An id that is not found stays ours alone until the commit.

    Whoever records AT's answer takes the same lock before it looks among the parked: so either it sees the
    report we park, or we see, at the second look, the id it wrote.
    """
    wanted = set(provider_ids)
    found = message_state.find_by_provider_id(connection, wanted)
    missing = wanted - found.keys()
    if missing and connection.dialect.name != "sqlite":
        lock_keys(connection, [f"report:{provider_id}" for provider_id in missing])
        found |= message_state.find_by_provider_id(connection, missing)
    return found


def apply_again(database: Database, connection: Connection, filed: FiledReport) -> bool:
    """For a replay: what this journal entry has not done yet; whether there was anything to do.

    It takes effect now, though it came at `filed.received_at`: as a parked report does that is joined.
    """
    found = find_messages(connection, [filed.report.provider_message_id])
    owners = [one.message_id for one in found.get(filed.report.provider_message_id, [])]
    row = _row_of_callback(connection, filed, owners)
    if row is None:
        rows.insert_rows(connection, [rows.row_of(filed)])
        row = _row_of_callback(connection, filed, owners)
    elif row.effect != UNKNOWN_WORD or not message_state.is_known_word(row.word):
        return False
    owner = row.message_id or next(iter(owners), None)
    if owner is not None:
        settle(database, connection, [(owner, row)], "report")
    return True


def _row_of_callback(connection: Connection, filed: FiledReport, owners: Sequence[int]) -> Any:
    """By the ways there are indexes for: among the parked, or through its message."""
    parked = connection.execute(_PARKED_BY_PROVIDER_ID, {"provider_ids": [filed.report.provider_message_id]})
    joined = connection.execute(_BY_OWNER, {"owners": list(owners)})
    return next((row for row in (*parked, *joined) if row.callback_id == filed.callback_id), None)


def join_stragglers(database: Database) -> int:
    """The sweep's look for reports that the locks, against all expectation, let slip by."""
    with database.read() as connection:
        ids = dict(sorted(tuple(row) for row in connection.execute(_STRAGGLERS)))
    if not ids:
        return 0
    with database.write() as connection:
        return join_parked(database, connection, ids)
