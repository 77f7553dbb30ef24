"""Which messages are due: urgent ones first, then each batch in turn, read by index however many rows wait."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    text,
)

from messaging.batch_statuses import MAY_SEND
from messaging.messages import pause_names
from messaging.messages.queue import BATCH_PRIORITY
from messaging.sending import order, pauses
from messaging.storage import tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from messaging.storage.due_times import IS_DUE

URGENT_PRIORITIES = (0, 1)

# Of a claim: more rows would hold SQLite's write lock for too long at a time.
MOST_ROWS = 2000
# So many rows tell whether texts are shared.
FIRST_LOOK = 8
# Where so many rows of a batch are due and a look finds fewer than it wanted, most wait for other texts to the same
# people, and it has read them all: 50,000 take SQLite 0.25 s under its write lock, PostgreSQL 0.8 s.
MANY_ROWS = 5000
LONG_LOOK_SECONDS = 0.1
RESTS_FOR_ITS_LOOK = 10
LONGEST_REST_SECONDS = 30.0


class LongLooks:
    """The batches that are left out for a while, because nearly all of their rows wait. Shared by threads."""

    def __init__(self) -> None:
        self._ends: dict[int, float] = {}

    def awake(self, batch_ids: list[int]) -> list[int]:
        now = time.monotonic()
        return [one for one in batch_ids if self._ends.get(one, now) <= now]

    def rest(self, batch_id: int, seconds: float) -> None:
        """After a look that took so long."""
        now = time.monotonic()
        ends = {one: end for one, end in self._ends.copy().items() if end > now}
        self._ends = ends | {batch_id: now + min(seconds * RESTS_FOR_ITS_LOOK, LONGEST_REST_SECONDS)}


class DueRow(NamedTuple):
    """SQLAlchemy's own row looks each attribute up by name, at five times the price."""

    id: int
    recipient: str
    text: str
    sender_id: str | None
    link_id: str | None
    batch_id: int | None
    priority: int
    expires_at: datetime | None
    passes_opt_out: bool
    estimated_parts: int | None
    inbound_id: int | None
    created_by: str | None
    passes_limits: bool


_COLUMNS = tuple(tables.messages.c[name] for name in DueRow._fields)

_MAY_SEND = and_(tables.batches.c.id == tables.messages.c.batch_id, tables.batches.c.status.in_(MAY_SEND))

# One index seek per batch, however many rows each has: DISTINCT would read them all.
_BATCHES_WITH_QUEUED_ROWS = text(
    """
    WITH RECURSIVE found(id) AS (
        SELECT min(batch_id) FROM messages WHERE status = 'queued' AND priority = 5
        UNION ALL
        SELECT (SELECT min(batch_id) FROM messages
                WHERE status = 'queued' AND priority = 5 AND batch_id > found.id)
        FROM found WHERE found.id IS NOT NULL
    )
    SELECT batches.id, batches.sender_id FROM found JOIN batches ON batches.id = found.id
    WHERE batches.status IN ('sending', 'scheduled')
    """
)


def has_urgent(database: Database) -> bool:
    """A look that takes no lock: whether a single text or a reply can be claimed."""
    with database.read() as connection:
        asked = order.moments(connection, wall_clock(connection))
        return bool(connection.execute(_IS_URGENT_DUE, asked).scalar())


def has_due(database: Database, looks: LongLooks | None = None) -> bool:
    """The same for everything: whether a claim would find a row, pauses aside."""
    if has_urgent(database):
        return True
    looks = looks or LongLooks()
    with database.read() as connection:
        asked = order.moments(connection, wall_clock(connection)) | {"most": 1}
        for batch_id in looks.awake(_sending_batches(connection, pauses.Pauses(frozenset()))):
            began_at = time.monotonic()
            of_batch = {**asked, "batch_id": batch_id}
            if connection.execute(_BATCH.claimable, of_batch).first() is not None:
                return True
            _rest_if_long(connection, of_batch, looks, time.monotonic() - began_at)
    return False


def longest_wait(connection: Connection, now: datetime) -> timedelta:
    """Of the texts that may go now, pauses aside: for how long the first of them has been due."""
    asked = order.moments(connection, now)
    oldest = [connection.execute(_OLDEST[one], asked).one_or_none() for one in URGENT_PRIORITIES]
    oldest += [
        connection.execute(_OLDEST[BATCH_PRIORITY], {**asked, "batch_id": batch_id}).one_or_none()
        for batch_id in _sending_batches(connection, pauses.Pauses(frozenset()))
    ]
    waits = [_waited(connection, now, row) for row in oldest if row is not None]
    return max(waits, default=timedelta())


def _waited(connection: Connection, now: datetime, row: Any) -> timedelta:
    at: datetime = now if row.due_by_wall else steady(connection, now)
    waited: timedelta = at - row.due_at
    return max(waited, timedelta())


_MOST = bindparam("most", type_=Integer())


def _due(priority: int) -> Select[Any]:
    """What is due, also where it waits for another text to the same person. Asked with `order.moments`."""
    # In the index's own words: SQLite does not see that `priority = 1` implies its `priority < 5`, and
    # would read the whole table.
    queued: Any = tables.URGENT if priority in URGENT_PRIORITIES else tables.BULK
    due: list[ColumnElement[bool]] = [queued, tables.messages.c.priority == priority, *IS_DUE]
    if priority in URGENT_PRIORITIES:
        # Few texts, many batches: asked row by row. Bulk asks once per batch.
        due.append(or_(tables.messages.c.batch_id.is_(None), exists().where(_MAY_SEND)))
        return select(*_COLUMNS).where(*due).order_by(tables.messages.c.due_at, tables.messages.c.id)
    due.append(tables.messages.c.batch_id == bindparam("batch_id"))
    # Rows with the same text follow one another, so that they fill a POST.
    by_text = tables.messages.c.due_at, tables.messages.c.text_group, tables.messages.c.id
    return select(*_COLUMNS).where(*due).order_by(*by_text)


class _Source(NamedTuple):
    """Statements about one priority. `total` counts what is due, also what waits for another text, up to `most`."""

    claimable: Select[Any]
    total: Select[Any]


def _source(priority: int) -> _Source:
    due = _due(priority)
    # In the order of the index: else PostgreSQL may read all rows of all batches to count a few.
    some = due.with_only_columns(literal_column("1")).limit(_MOST).subquery()
    return _Source(due.where(order.is_next()).limit(_MOST), select(func.count()).select_from(some))


# Made once: SQLAlchemy takes longer to put one of these together than SQLite takes to answer it.
_IS_URGENT_DUE = select(
    or_(*(_due(priority).where(order.is_next()).exists() for priority in URGENT_PRIORITIES))
)
_URGENT = {priority: _source(priority) for priority in URGENT_PRIORITIES}
_BATCH = _source(BATCH_PRIORITY)
_OLDEST = {
    priority: _due(priority)
    .with_only_columns(tables.messages.c.due_at, tables.messages.c.due_by_wall)
    .limit(1)
    for priority in (*URGENT_PRIORITIES, BATCH_PRIORITY)
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one claim may take. `lanes` share what is due, so that none is left without."""

    recipients_per_post: int
    posts: int
    lanes: int
    urgent_only: bool = False
    looks: LongLooks = field(default_factory=LongLooks)

    def most_rows(self, posts: int) -> int:
        return min(self.recipients_per_post * posts, max(MOST_ROWS, self.recipients_per_post))


@dataclass(slots=True)
class Due:
    """`posts`: how many its rows fill. `is_more`: other lanes find more."""

    rows: list[DueRow] = field(default_factory=list)
    posts: int = 0
    is_more: bool = False


def find_due(connection: Connection, now: datetime, paused: pauses.Pauses, wanted: Wanted) -> Due:
    """Locks what it returns: urgent rows first."""
    asked = order.moments(connection, now)
    due = Due()
    # One question instead of two, for mostly there is none.
    if connection.execute(_IS_URGENT_DUE, asked).scalar():
        for priority in URGENT_PRIORITIES:
            _take_share(connection, _URGENT[priority], paused, wanted, asked, due)
    if wanted.urgent_only:
        return due
    for batch_id in wanted.looks.awake(_sending_batches(connection, paused)):
        began_at = time.monotonic()
        of_batch = {**asked, "batch_id": batch_id}
        if not _take_share(connection, _BATCH, paused, wanted, of_batch, due):
            _rest_if_long(connection, of_batch, wanted.looks, time.monotonic() - began_at)
        if due.is_more:
            break
    return due


def _take_share(
    connection: Connection,
    source: _Source,
    paused: pauses.Pauses,
    wanted: Wanted,
    asked: Mapping[str, Any],
    due: Due,
) -> bool:
    """Adds rows to `due`, as far as it has room. Whether there were as many as it asked for."""
    posts = wanted.posts - due.posts
    if posts <= 0:
        due.is_more = True
        return True
    most_rows = wanted.most_rows(posts)
    most = min(most_rows, max(posts, FIRST_LOOK))
    rows = _take(connection, source.claimable, paused, most, asked)
    is_own_text = len({row.text for row in rows}) > len(rows) // 2
    needed = wanted.lanes * (posts if is_own_text else most_rows)
    found_all = len(rows) == most
    found = _total(connection, source, asked, needed) if found_all else len(rows)
    share = math.ceil(found / wanted.lanes)
    if is_own_text:
        rows = rows[: min(share, posts)]
    else:
        share = min(max(share, wanted.recipients_per_post), most_rows)
        if found_all and share > most:
            rows = _take(connection, source.claimable, paused, share, asked)
            found_all = len(rows) == share
        rows = rows[:share]
        if found > share:
            rows = _without_rest(rows, wanted.recipients_per_post)
    due.rows += rows
    due.posts += _posts(rows, wanted.recipients_per_post)
    # What was read, and fills more POSTs than this lane makes, stays queued too.
    due.is_more |= found > len(rows) or due.posts > wanted.posts
    return found_all


def _total(connection: Connection, source: _Source, asked: Mapping[str, Any], most: int) -> int:
    found: int = connection.execute(source.total, {**asked, "most": most + 1}).scalar_one()
    return found


def _rest_if_long(connection: Connection, asked: Mapping[str, Any], looks: LongLooks, seconds: float) -> None:
    """A look that only a busy database made long is followed by the next one at once."""
    if seconds > LONG_LOOK_SECONDS and _total(connection, _BATCH, asked, MANY_ROWS) > MANY_ROWS:
        looks.rest(asked["batch_id"], seconds)


def _posts(rows: list[DueRow], recipients_per_post: int) -> int:
    texts = Counter(row.text for row in rows)
    return sum(math.ceil(count / recipients_per_post) for count in texts.values())


def _without_rest(rows: list[DueRow], recipients_per_post: int) -> list[DueRow]:
    """More rows with the last text follow: what fills no POST of it waits for them."""
    last = sum(row.text == rows[-1].text for row in rows)
    rest = last % recipients_per_post
    return rows[: len(rows) - rest] if rest < len(rows) else rows


def _take(
    connection: Connection, statement: Select[Any], paused: pauses.Pauses, most: int, asked: Mapping[str, Any]
) -> list[DueRow]:
    held = [name.removeprefix(pause_names.SENDER_PREFIX) for name in sorted(paused.names)]
    if held:
        # As `pause_names.sender_name` spells it; what is claimed here and released there would spin.
        sender = func.upper(func.coalesce(tables.messages.c.sender_id, ""))
        statement = statement.where(sender.not_in(held))
    locking = statement.with_for_update(skip_locked=True, of=tables.messages)
    found = connection.execute(locking, {**asked, "most": most})
    return [DueRow._make(row) for row in found]


def _sending_batches(connection: Connection, paused: pauses.Pauses) -> list[int]:
    """Batches with queued rows that may go, in an order that gives each its share.

    One whose sender is paused is left out whole, for its million rows would be read to find none.
    """
    found = connection.execute(_BATCHES_WITH_QUEUED_ROWS)
    ids = [row.id for row in found if not paused.holds(row.sender_id)]
    random.shuffle(ids)
    return ids
