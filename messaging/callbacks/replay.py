"""Callbacks applied once more from their raw bodies, after a mapping or a fault was mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from messaging.access import actions
from messaging.callbacks import journal
from messaging.callbacks.apply import Filed, apply_each, attempt
from messaging.callbacks.receive import TRUNCATED, Unusable, read_content
from messaging.reports import find
from messaging.reports.apply import apply_again
from messaging.reports.message_state import DeliveryReport, FiledReport
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.settings import Settings

# Small, so that callbacks that come in meanwhile do not wait long for the one writer of SQLite.
CHUNK = 100
# After that a body that still fails is a person's: it stays `unapplied`, and the audit names it.
RETRIED_FOR = timedelta(days=1)
MOST_RETRIED = 1000


@dataclass(frozen=True, slots=True)
class ReplayCounts:
    """`unchanged`: had taken effect already, or its body was erased with age."""

    applied: int = 0
    unchanged: int = 0
    quarantined: int = 0
    unapplied: int = 0


def replay(
    database: Database,
    settings: Settings,
    ids: Sequence[int] | None = None,
    since: datetime | None = None,
    only_unapplied: bool = False,
) -> ReplayCounts:
    """Idempotent: what has taken effect does not do so again. `since`: received at or after it.

    An opt-out that was applied stays as it is, for its phone may have come back since; a text is answered
    only if it never was.
    """
    counted: Counter[str] = Counter()
    for chunk in _chunks(database, _wanted(ids, since, only_unapplied)):
        with database.write() as connection:
            find.take_turn(connection)
            # Locked as whoever journals locks them, applied in the order they came.
            rows = connection.execute(
                select(tables.callbacks)
                .where(tables.callbacks.c.id.in_(chunk))
                .order_by(tables.callbacks.c.digest)
                .with_for_update()
            ).all()
            in_order = sorted(rows, key=lambda row: row.id)
            for row in in_order:
                counted[_replay_one(settings, connection, row)] += 1
                before = {"outcome": row.outcome}
                actions.note(connection, "callback.replay", f"callback:{row.id}", before)
    return ReplayCounts(**counted)


def retry_unapplied(database: Database, settings: Settings) -> int:
    """What a passing fault kept from taking effect, tried again by itself; how many did take effect.

    For the sweep of each minute: a body is due when it is 1, 2, 4 … minutes old, eleven times in a day. Its
    age is all that this needs to remember.
    """
    with database.read() as connection:
        now = wall_clock(connection)
        statement = select(tables.callbacks.c.id, tables.callbacks.c.received_at).where(
            tables.TO_LOOK_AT,
            tables.callbacks.c.outcome == journal.UNAPPLIED,
            tables.callbacks.c.received_at > now - RETRIED_FOR,
        )
        found = connection.execute(statement.order_by(tables.callbacks.c.id)).all()
    due = [row.id for row in found if _is_due(now - row.received_at)]
    return replay(database, settings, ids=due[:MOST_RETRIED], only_unapplied=True).applied if due else 0


def _is_due(age: timedelta) -> bool:
    minutes = age // timedelta(minutes=1)
    return minutes > 0 and minutes & (minutes - 1) == 0


def _wanted(ids: Sequence[int] | None, since: datetime | None, only_unapplied: bool) -> Select[Any]:
    statement = select(tables.callbacks.c.id)
    if ids is not None:
        statement = statement.where(tables.callbacks.c.id.in_(ids))
    if since is not None:
        statement = statement.where(tables.callbacks.c.received_at >= since)
    if only_unapplied:
        statement = statement.where(tables.callbacks.c.outcome == journal.UNAPPLIED)
    return statement.order_by(tables.callbacks.c.id).limit(CHUNK)


def _chunks(database: Database, wanted: Select[Any]) -> Iterator[list[int]]:
    last_id = 0
    while True:
        with database.read() as connection:
            chunk = list(connection.execute(wanted.where(tables.callbacks.c.id > last_id)).scalars())
        if not chunk:
            return
        yield chunk
        last_id = chunk[-1]


def _replay_one(settings: Settings, connection: Connection, row: Row[Any]) -> str:
    """The name of the count that it adds to."""
    try:
        content = read_content(
            row.kind, bytes(row.body), settings.default_region, truncated=row.detail == TRUNCATED
        )
    except Unusable:  # also what was erased with age
        return "quarantined" if row.outcome == journal.QUARANTINED else "unchanged"
    if isinstance(content, DeliveryReport):
        return _replay_report(settings, connection, row, content)
    if row.outcome == journal.APPLIED:
        return "unchanged"
    if apply_each(settings, connection, [Filed(row.id, row.received_at, content)]):
        return "unapplied"
    journal.set_outcome(connection, [row.id], journal.APPLIED, None)
    return "applied"


def _replay_report(settings: Settings, connection: Connection, row: Row[Any], report: DeliveryReport) -> str:
    filed = FiledReport(row.id, row.received_at, report)
    again = partial(apply_again, connection, filed, adopt=settings.adopt_by_number)
    did = attempt(connection, row.id, again)
    if did is None:
        return "unapplied"
    if row.outcome != journal.APPLIED:
        journal.set_outcome(connection, [row.id], journal.APPLIED, None)
    return "applied" if did or row.outcome != journal.APPLIED else "unchanged"
