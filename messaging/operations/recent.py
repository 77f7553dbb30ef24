"""What the first page says beside the statistics: who wrote, who opted out, what waits to leave."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, TextClause, func, literal_column, select

from messaging import statuses
from messaging.consent.keywords import STOP
from messaging.conversations.views import wrote_since
from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.time_ranges import within

# More than this are "at least so many": no page counts a million of them.
MOST_COUNTED = 10_000


class Recent(NamedTuple):
    """Each up to `MOST_COUNTED`. `wrote`: people, not texts."""

    wrote: int
    opted_out: int
    queued: int


def recent(database: Database, since: datetime) -> Recent:
    opt_outs, messages = tables.opt_outs, tables.messages
    with database.read() as connection:
        stopped = opt_outs.c.action == STOP, *within(connection, opt_outs, opt_outs.c.at, since, None)
        return Recent(
            _count(connection, tables.conversations, *wrote_since(connection, since)),
            _count(connection, opt_outs, *stopped),
            _count(connection, messages, tables.QUEUED, messages.c.status == statuses.QUEUED),
        )


def _count(connection: Connection, table: Table, *conditions: ColumnElement[bool] | TextClause) -> int:
    some = select(literal_column("1")).select_from(table).where(*conditions).limit(MOST_COUNTED).subquery()
    found: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return found
