"""`Idempotency-Key`: one key, one effect. The key's row is part of the transaction that accepts the request."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from messaging.messages import lost_texts
from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from messaging.storage.clocks import by_boot_clock
from utils.errors import Conflict, InvalidInput

KEPT = timedelta(hours=24)
LONGEST_KEY = 255


class KeyReused(InvalidInput):
    code = "idempotency_key_reused"
    sentence = "This Idempotency-Key was used with another request: use a new key"


class SentBeforeRestore(Conflict):
    """What a first call with this key asked for has left, at least in part, and the database has forgotten it."""

    code = "sent_before_restore"
    sentence = (
        "Texts of the first call with this Idempotency-Key left before the database was put back to an earlier state;"
        " they are not sent again. Look at what is missing, and use a new key for that"
    )


class StillRunning(Conflict):
    code = "idempotency_key_in_use"
    sentence = "A request with this Idempotency-Key is still running: try again in a moment"


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the first request with this key left: its answer, or the attempt that knows it."""

    answer: dict[str, Any] | None
    attempt_id: int | None


def fingerprint(request: Any) -> bytes:
    """Over the parsed request, so that spaces and the order of fields do not count. `request`: JSON's types."""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).digest()


def begin(connection: Connection, route: str, key: str, mark: bytes, now: datetime) -> Earlier | None:
    """None: the key is ours from this transaction on. Raises KeyReused, SentBeforeRestore, InvalidInput.

    A second transaction with the same key waits here for the first one's end (PostgreSQL's unique index,
    SQLite's one writer), and then sees its answer; a first one that crashed has freed the key.
    """
    _validate(key)
    row = {"route": route, "key": key, "fingerprint": mark, "created_at": now}
    row |= {"steady_at": by_boot_clock(connection, now)}
    while not insert_or_ignore(connection, tables.idempotency_keys, row):
        # None: a sweep has just forgotten the row that was in the way.
        if earlier := _earlier(connection, route, key, mark, lock=True):
            return earlier
    if lost_texts.has_call(connection, route, key, now):
        raise SentBeforeRestore(field="Idempotency-Key")
    return None


def look(connection: Connection, route: str, key: str, mark: bytes) -> Earlier | None:
    """What `begin` would find, without taking the key. Raises KeyReused, InvalidInput."""
    _validate(key)
    return _earlier(connection, route, key, mark)


def _earlier(
    connection: Connection, route: str, key: str, mark: bytes, *, lock: bool = False
) -> Earlier | None:
    statement = select(tables.idempotency_keys).where(*_is(route, key))
    found = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    if found is None:
        return None
    if bytes(found.fingerprint) != mark:
        raise KeyReused(field="Idempotency-Key")
    return Earlier(None if found.answer is None else json.loads(found.answer), found.attempt_id)


def finish(
    connection: Connection,
    route: str,
    key: str,
    answer: dict[str, Any] | None = None,
    attempt_id: int | None = None,
) -> None:
    values = {"answer": None if answer is None else json.dumps(answer), "attempt_id": attempt_id}
    connection.execute(update(tables.idempotency_keys).where(*_is(route, key)).values(**values))


def forget_old(connection: Connection, now: datetime) -> int:
    """A day old by the wall clock and by the boot clock: one of them may have been wrong for hours."""
    keys = tables.idempotency_keys.c
    steady_at = func.coalesce(keys.steady_at, keys.created_at, type_=keys.steady_at.type)
    before = by_boot_clock(connection, now) - KEPT
    return connection.execute(
        delete(tables.idempotency_keys).where(keys.created_at < now - KEPT, steady_at < before)
    ).rowcount


def _validate(key: str) -> None:
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise InvalidInput(
            f"Idempotency-Key must be 1 to {LONGEST_KEY} printable characters", field="Idempotency-Key"
        )


def _is(route: str, key: str) -> tuple[Any, Any]:
    return tables.idempotency_keys.c.route == route, tables.idempotency_keys.c.key == key
