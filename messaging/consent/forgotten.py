"""Opt-outs of persons who were forgotten: the ledger has a keyed hash in place of the number.

The key lies in the database, so no change of a setting makes them textable again. `#` and 16 hexadecimal digits fit
where a number stands; no number begins so.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.identity import Identity, find_identity

MARK = "#"
# Another hash than a witness has of the same number.
PURPOSE = "opt-out"

_ANY = select(tables.suppressions.c.phone).where(tables.FORGOTTEN).limit(1)
_AMONG = select(tables.suppressions.c.phone).where(one_of(tables.suppressions.c.phone, "names"))


def names_of(connection: Connection, phones: Sequence[str]) -> dict[str, str]:
    """By the name in the ledger, where somebody was forgotten: the phone. Nothing where nobody was."""
    # Whether it is worth making hashes at all.
    if connection.execute(_ANY).first() is None:
        return {}
    identity = find_identity(connection)
    return {} if identity is None else {name_of(identity, one): one for one in phones}


def among(connection: Connection, phones: Sequence[str]) -> set[str]:
    """Those of `phones` that a block of somebody forgotten stands for, whichever sender it is for."""
    names = names_of(connection, phones)
    if not names:
        return set()
    return {names[one] for one in connection.execute(_AMONG, {"names": list(names)}).scalars()}


def name_of(identity: Identity, phone: str) -> str:
    return MARK + identity.digest(PURPOSE, phone)
