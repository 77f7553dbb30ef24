"""Which database this is: a random id and a key for hashes, made once. A copy that is put back has the same ones."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, select

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore

ROW_ID = 1
TOKEN_BYTES = 16
KEY_BYTES = 32
# Of one number, or of one text, among those of a few weeks: 64 bits are enough, and a POST has 500 of them.
DIGEST_BYTES = 8

_FIND = select(tables.database_identity.c.database_id, tables.database_identity.c.hash_key).where(
    tables.database_identity.c.id == ROW_ID
)


class Identity(NamedTuple):
    """`hash_key`: whoever has only the witness cannot tell a number by trying all of them."""

    database_id: str
    hash_key: bytes

    def digest(self, *parts: str) -> str:
        return self._hasher("\0".join(parts))

    def digests(self, values: list[str]) -> str:
        """One after the other, each as long as the others."""
        return "".join(map(self._hasher, values))

    def _hasher(self, value: str) -> str:
        # Keyed BLAKE2b is a MAC by itself: HMAC-SHA-256 takes twice as long.
        return hashlib.blake2b(value.encode(), key=self.hash_key, digest_size=DIGEST_BYTES).hexdigest()


def require_identity(connection: Connection, now: datetime) -> Identity:
    """In a write transaction: the first one makes it."""
    found = find_identity(connection)
    if found is None:
        insert_or_ignore(connection, tables.database_identity, _new_row(now))
        found = find_identity(connection)
    return cast(Identity, found)


def find_identity(connection: Connection) -> Identity | None:
    """None before the first heartbeat or claim."""
    found = connection.execute(_FIND).one_or_none()
    return None if found is None else Identity(found.database_id, bytes(found.hash_key))


def _new_row(now: datetime) -> dict[str, Any]:
    return {
        "id": ROW_ID,
        "database_id": secrets.token_hex(TOKEN_BYTES),
        "hash_key": secrets.token_bytes(KEY_BYTES),
        "made_at": now,
    }


def new_token() -> str:
    return secrets.token_hex(TOKEN_BYTES)
