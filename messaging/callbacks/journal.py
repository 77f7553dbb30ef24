"""Every callback as it came, before anything is made of it: the evidence, and what a replay starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import Connection, Executable, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from messaging.storage import tables
from messaging.storage.bulk import JsonRows, one_of
from messaging.storage.database import utc_now

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


def digest_of(kind: str, body: bytes) -> bytes:
    return blake2b(body, digest_size=DIGEST_BYTES, key=kind.encode()).digest()


def write(connection: Connection, arrivals: Iterable[Arrival]) -> Mapping[bytes, Entry]:
    """The entries by digest. An equal body counts up the entry it has, however often AT repeats it."""
    rows: dict[bytes, dict[str, Any]] = {}
    now = utc_now()
    for arrival in arrivals:
        row = rows.get(arrival.digest)
        if row is None:
            rows[arrival.digest] = {**arrival._asdict(), "count": 1, "now": now}
        else:
            row["count"] += 1
    # In one order, so that two groups with bodies in common cannot wait for each other.
    ordered = [rows[digest] for digest in sorted(rows)]
    if connection.dialect.name == "sqlite":
        stored = connection.execute(_UPSERT_EACH, ordered)
    else:
        stored = connection.execute(_UPSERT_ALL, _ARRIVED.given(ordered))
    return {
        row.digest: Entry(row.id, row.count == rows[row.digest]["count"], row.outcome, row.last_seen_at)
        for row in stored
    }


def set_outcome(
    connection: Connection, callback_ids: Sequence[int], outcome: str, detail: str | None
) -> None:
    if callback_ids:
        given = {"callback_ids": callback_ids, "new_outcome": outcome, "new_detail": detail}
        connection.execute(_SET_OUTCOME, given)


def _counting(insert: sqlite.Insert | postgresql.Insert) -> Executable:
    counted = insert.on_conflict_do_update(
        index_elements=[tables.callbacks.c.kind, tables.callbacks.c.digest],
        set_={
            "count": tables.callbacks.c.count + insert.excluded.count,
            "last_seen_at": insert.excluded.last_seen_at,
        },
    )
    return counted.returning(
        tables.callbacks.c.id,
        tables.callbacks.c.digest,
        tables.callbacks.c.count,
        tables.callbacks.c.outcome,
        tables.callbacks.c.last_seen_at,
    )


def _upsert_all() -> Executable:
    """PostgreSQL's clock is the one that attempts are dated by; in the statement it costs no question of its own."""
    clock = func.clock_timestamp()
    rows = select(*_ARRIVED.columns, clock, clock).order_by(_ARRIVED.place)
    return _counting(
        postgresql.insert(tables.callbacks).from_select(
            [*_ARRIVED.names, "received_at", "last_seen_at"], rows
        )
    )


_ARRIVED = JsonRows("arrived", {name: tables.callbacks.c[name].type for name in (*Arrival._fields, "count")})
_NOW = bindparam("now", type_=tables.callbacks.c.received_at.type)
_UPSERT_EACH = _counting(sqlite.insert(tables.callbacks).values(received_at=_NOW, last_seen_at=_NOW))
_UPSERT_ALL = _upsert_all()
