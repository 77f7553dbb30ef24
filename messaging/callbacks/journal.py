"""Every callback as it came, before anything is made of it: the evidence, and what a replay starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

from sqlalchemy import Connection, Executable, bindparam, func, select, update
from sqlalchemy.dialects import postgresql

from messaging.storage import tables
from messaging.storage.bulk import JsonRows, as_stored, one_of
from messaging.storage.clocks import utc_now

# Durable and answered; the worker applies it.
RECEIVED = "received"
APPLIED = "applied"
QUARANTINED = "quarantined"
UNAPPLIED = "unapplied"

DIGEST_BYTES = 16
_SET_OUTCOME = (
    update(tables.callbacks)
    .where(one_of(tables.callbacks.c.id, "callback_ids"))
    .values(outcome=bindparam("new_outcome"), detail=bindparam("new_detail"))
)


class Arrival(NamedTuple):
    """A body to be kept. `outcome` is what it will be if nothing goes wrong: so there is no second write."""

    kind: str
    body: bytes
    content_type: str | None
    digest: bytes
    outcome: str
    detail: str | None


class Entry(NamedTuple):
    """`is_new`: nobody sent this body before. `outcome`: the stored one, of the first time for an old entry."""

    id: int
    is_new: bool
    outcome: str
    seen_at: datetime


# Id, digest, count, outcome, last seen at.
_Stored = tuple[int, bytes, int, str, datetime]


def digest_of(kind: str, body: bytes) -> bytes:
    return blake2b(body, digest_size=DIGEST_BYTES, key=kind.encode()).digest()


def write(connection: Connection, arrivals: Iterable[Arrival]) -> Mapping[bytes, Entry]:
    """The entries by digest. An equal body counts up the entry it has, however often AT repeats it."""
    came: dict[bytes, Arrival] = {}
    counts: Counter[bytes] = Counter()
    for arrival in arrivals:
        came.setdefault(arrival.digest, arrival)
        counts[arrival.digest] += 1
    # In one order, so that two groups with bodies in common cannot wait for each other.
    ordered = [(came[digest], counts[digest]) for digest in sorted(came)]
    upsert = _upsert_on_sqlite if connection.dialect.name == "sqlite" else _upsert_on_postgresql
    return {
        digest: Entry(entry_id, count == counts[digest], outcome, seen_at)
        for entry_id, digest, count, outcome, seen_at in upsert(connection, ordered)
    }


def set_outcome(
    connection: Connection, callback_ids: Sequence[int], outcome: str, detail: str | None
) -> None:
    if callback_ids:
        given = {"callback_ids": callback_ids, "new_outcome": outcome, "new_detail": detail}
        connection.execute(_SET_OUTCOME, given)


def _upsert_on_sqlite(connection: Connection, ordered: Sequence[tuple[Arrival, int]]) -> Iterator[_Stored]:
    """Past SQLAlchemy, which binds each row anew: that took three times as long as the statement."""
    now = utc_now()
    stored = as_stored(connection, now)
    values = [value for arrival, count in ordered for value in (*arrival, count, stored, stored)]
    if not values:
        return
    for row in connection.exec_driver_sql(_upsert_of(len(ordered)), tuple(values)):
        yield *row, now


@cache
def _upsert_of(count: int) -> str:
    """A group has at most as many as a commit shares, so there are few of these."""
    names = (*Arrival._fields, "count", "received_at", "last_seen_at")
    row = f"({', '.join('?' * len(names))})"
    return f"""
        INSERT INTO callbacks ({", ".join(names)}) VALUES {", ".join([row] * count)}
        ON CONFLICT (kind, digest) DO UPDATE
            SET count = callbacks.count + excluded.count, last_seen_at = excluded.last_seen_at
        RETURNING id, digest, count, outcome
    """  # noqa: S608  (names of our columns)


def _upsert_on_postgresql(
    connection: Connection, ordered: Sequence[tuple[Arrival, int]]
) -> Iterator[_Stored]:
    rows = ({**arrival._asdict(), "count": count} for arrival, count in ordered)
    return map(tuple, connection.execute(_UPSERT_ALL, _ARRIVED.given(rows)))


def _upsert_all() -> Executable:
    """PostgreSQL's clock is the one that attempts are dated by; in the statement it costs no question of its own."""
    clock = func.clock_timestamp()
    rows = select(*_ARRIVED.columns, clock, clock).order_by(_ARRIVED.place)
    upsert = postgresql.insert(tables.callbacks).from_select(
        [*_ARRIVED.names, "received_at", "last_seen_at"], rows
    )
    counted = upsert.on_conflict_do_update(
        index_elements=[tables.callbacks.c.kind, tables.callbacks.c.digest],
        set_={
            "count": tables.callbacks.c.count + upsert.excluded.count,
            "last_seen_at": upsert.excluded.last_seen_at,
        },
    )
    return counted.returning(
        tables.callbacks.c.id,
        tables.callbacks.c.digest,
        tables.callbacks.c.count,
        tables.callbacks.c.outcome,
        tables.callbacks.c.last_seen_at,
    )


_ARRIVED = JsonRows("arrived", {name: tables.callbacks.c[name].type for name in (*Arrival._fields, "count")})
_UPSERT_ALL = _upsert_all()
