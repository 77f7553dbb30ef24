"""Opt-outs of persons who were forgotten: the ledger has a keyed hash in place of the number.

The key lies in the database, so no change of a setting makes them textable again. `#` and 16 hexadecimal digits fit
where a number stands; no number begins so.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from messaging.storage import tables
from messaging.storage.identity import FIND, Identity

MARK = "#"
# Another hash than a witness has of the same number.
PURPOSE = "opt-out"

_ANY = select(tables.suppressions.c.phone).where(tables.FORGOTTEN).limit(1)


def has_any(connection: Connection) -> bool:
    """Whether it is worth making hashes at all."""
    return connection.execute(_ANY).first() is not None


def names_of(connection: Connection, phones: Sequence[str]) -> dict[str, str]:
    """By the name in the ledger, where somebody was forgotten: the phone. Nothing where nobody was."""
    if not has_any(connection):
        return {}
    identity = identity_of(connection)
    return {name_of(identity, one): one for one in phones}


def name_of(identity: Identity, phone: str) -> str:
    return MARK + identity.digest(PURPOSE, phone)


def identity_of(connection: Connection) -> Identity:
    """Made by the first heartbeat or claim: where somebody could be forgotten, it is there."""
    found = connection.execute(FIND).one()
    return Identity(found.database_id, bytes(found.hash_key))
