"""How many messages came to which status, counted by those who write the statuses.

Each writer appends what it did to `status_deltas`, in its own transaction and in one statement: no row is shared, so
nobody waits, and no figure needs a look at the messages. A sweep folds the deltas into `hourly_counts`; a reader adds
both. What is counted are changes: a message that was reported as failed and later as delivered is counted twice, and
its second count has the reason `after_failed`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, select

from messaging.forwarding.events import StatusChange
from messaging.storage import counters, tables
from messaging.storage.bulk import JsonRows, as_json_rows, as_stored, insert_for, one_of
from messaging.storage.database import Database

# Upper ends of the steps of a histogram, in seconds from AT's acceptance to the report. Step 1 is the first; the last
# step is open. A message that has no such time is in step 0.
DELAYS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 259200)
AFTER = "after_"
FOLDED_AT_ONCE = 5000
# What all hours come to together, in `counters`: for a scrape, which must not read every hour there ever was.
TOTAL, TOTAL_PARTS, TOTAL_MICROS, TOTAL_STEP = "messages:", "parts", "micros:", "delivery_step:"


class Counted(NamedTuple):
    """What is told apart. Empty words, and step 0, where there is nothing to tell."""

    hour: datetime
    status: str
    reason: str = ""
    sender_id: str = ""
    network: str = ""
    currency: str = ""
    delay: int = 0


class Tally(dict[Counted, tuple[int, int, int]]):
    """Messages, parts and micros by what is told apart."""

    def add(self, counted: Counted, messages: int = 1, parts: int = 0, micros: int = 0) -> None:
        known = self.get(counted)
        if known is not None:
            messages, parts, micros = messages + known[0], parts + known[1], micros + known[2]
        self[counted] = (messages, parts, micros)

    def take_over(self, other: Tally) -> None:
        for counted, numbers in other.items():
            self.add(counted, *numbers)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        return ((*counted, *numbers) for counted, numbers in self.items())


_COLUMNS = (*Counted._fields, "messages", "parts", "micros")
# For a statement of PostgreSQL that writes more beside it, which saves a round trip. Its parameter: `given`.
COUNTING = f"""
    INSERT INTO status_deltas ({", ".join(_COLUMNS)})
    SELECT {", ".join(_COLUMNS)} FROM json_to_recordset(CAST(:given AS json)) AS given(
        hour timestamptz, status text, reason text, sender_id text, network text, currency text, delay smallint,
        messages integer, parts integer, micros bigint)
"""  # noqa: S608  (names of our columns)
GIVEN = JsonRows("given", {name: tables.status_deltas.c[name].type for name in _COLUMNS})
INSERT_GIVEN = insert(tables.status_deltas).from_select(GIVEN.names, select(*GIVEN.columns))
_INSERT_JSON = f"""
    INSERT INTO status_deltas ({", ".join(_COLUMNS)})
    SELECT {", ".join(f"json_extract(value, '$[{place}]')" for place in range(len(_COLUMNS)))}
    FROM json_each(?)
"""  # noqa: S608  (names of our columns)
_REASON, _SENDER, _NETWORK = (
    func.coalesce(tables.messages.c[name], "").label(name) for name in ("reason", "sender_id", "network")
)
_HOUR = tables.status_deltas.c.hour.type
_FROM_ROWS = insert(tables.status_deltas).from_select(
    ("hour", "status", "reason", "sender_id", "network", "currency", "delay", "messages", "parts", "micros"),
    select(
        bindparam("hour", type_=_HOUR),
        bindparam("status", type_=tables.status_deltas.c.status.type),
        _REASON,
        _SENDER,
        _NETWORK,
        literal_column("''"),
        literal_column("0"),
        func.count(),
        literal_column("0"),
        literal_column("0"),
    )
    .where(one_of(tables.messages.c.id, "ids"))
    .group_by(tables.messages.c.reason, tables.messages.c.sender_id, tables.messages.c.network),
)


def hour_of(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def delay_step(duration: timedelta) -> int:
    """Of the histogram."""
    return bisect_left(DELAYS, duration.total_seconds()) + 1


def append(connection: Connection, tally: Tally) -> None:
    if not tally:
        return
    if connection.dialect.name == "sqlite":
        rows = [(as_stored(connection, row[0]), *row[1:]) for row in tally.rows()]
        connection.exec_driver_sql(_INSERT_JSON, (as_json_rows(rows),))
    else:
        connection.execute(INSERT_GIVEN, given(tally))


def given(tally: Tally) -> dict[str, str]:
    """The parameter of `INSERT_GIVEN`, also as a part of a statement that writes more."""
    return GIVEN.given(dict(zip(_COLUMNS, row, strict=True)) for row in tally.rows())


def append_from_rows(connection: Connection, happened: Iterable[StatusChange]) -> None:
    """For a writer that does not know what its messages' rows say: they are written already, and read here."""
    ids: dict[tuple[datetime, str], list[int]] = {}
    for one in happened:
        ids.setdefault((hour_of(one.at), one.status), []).append(one.message_id)
    for (hour, status), mine in ids.items():
        connection.execute(_FROM_ROWS, {"hour": hour, "status": status, "ids": mine})


def fold(database: Database) -> int:
    """Adds the deltas to the counts of their hours, a few thousand in a transaction; how many there were."""
    folded = 0
    while True:
        with database.write() as connection:
            count = _fold_some(connection)
        folded += count
        if count < FOLDED_AT_ONCE:
            return folded


def _fold_some(connection: Connection) -> int:
    oldest = (
        select(tables.status_deltas.c.id)
        .order_by(tables.status_deltas.c.id)
        .limit(FOLDED_AT_ONCE)
        # Two sweeps at once take different ones.
        .with_for_update(skip_locked=True)
    )
    statement = delete(tables.status_deltas).where(tables.status_deltas.c.id.in_(oldest))
    taken = statement.returning(*(tables.status_deltas.c[name] for name in _COLUMNS))
    tally, count = Tally(), 0
    for row in connection.execute(taken):
        tally.add(Counted(*row[:-3]), *row[-3:])
        count += 1
    if tally:
        # In one order, so that two sweeps cannot wait for each other.
        rows = [dict(zip(_COLUMNS, row, strict=True)) for row in sorted(tally.rows())]
        connection.execute(_add(connection), rows)
        counters.add_all(connection, _totals(tally))
    return count


def _totals(tally: Tally) -> Mapping[str, int]:
    totals: Counter[str] = Counter()
    for counted, (messages, parts, micros) in tally.items():
        totals[f"{TOTAL}{counted.status}"] += messages
        totals[TOTAL_PARTS] += parts
        if micros:
            totals[f"{TOTAL_MICROS}{counted.currency}"] += micros
        if counted.delay:
            totals[f"{TOTAL_STEP}{counted.delay}"] += messages
    return totals


def _add(connection: Connection) -> Any:
    new = insert_for(connection, tables.hourly_counts)
    known = tables.hourly_counts.c
    sums = {name: known[name] + new.excluded[name] for name in ("messages", "parts", "micros")}
    return new.on_conflict_do_update(index_elements=[known[name] for name in Counted._fields], set_=sums)
