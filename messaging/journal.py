"""Every callback as it came, before anything is made of it: the evidence, and what a replay starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Executable, bindparam, func, update
from sqlalchemy.dialects import postgresql, sqlite

from messaging.database import utc_now
from messaging.models import callbacks

APPLIED = "applied"
QUARANTINED = "quarantined"
UNAPPLIED = "unapplied"

DIGEST_BYTES = 16
_SET_OUTCOME = (
    update(callbacks)
    .where(callbacks.c.id == bindparam("callback_id"))
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
    stored = connection.execute(_UPSERTS[connection.dialect.name], ordered)
    return {
        row.digest: Entry(row.id, row.count == rows[row.digest]["count"], row.outcome, row.last_seen_at)
        for row in stored
    }


def set_outcome(
    connection: Connection, callback_ids: Sequence[int], outcome: str, detail: str | None
) -> None:
    if callback_ids:
        rows = [{"callback_id": one, "new_outcome": outcome, "new_detail": detail} for one in callback_ids]
        connection.execute(_SET_OUTCOME, rows)


def _upsert(insert: sqlite.Insert | postgresql.Insert, now: ColumnElement[Any]) -> Executable:
    counted = insert.values(received_at=now, last_seen_at=now).on_conflict_do_update(
        index_elements=[callbacks.c.kind, callbacks.c.digest],
        set_={
            "count": callbacks.c.count + insert.excluded.count,
            "last_seen_at": insert.excluded.last_seen_at,
        },
    )
    return counted.returning(
        callbacks.c.id, callbacks.c.digest, callbacks.c.count, callbacks.c.outcome, callbacks.c.last_seen_at
    )


# PostgreSQL's clock is the one that attempts are dated by; in the statement it costs no question of its own.
_UPSERTS = {
    "sqlite": _upsert(sqlite.insert(callbacks), bindparam("now", type_=callbacks.c.received_at.type)),
    "postgresql": _upsert(postgresql.insert(callbacks), func.clock_timestamp()),
}
