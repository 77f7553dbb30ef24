"""What texts were made from, for the witness: whoever makes them anew after a restore is to be recognised by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import Connection, select

from messaging.messages.lost_texts import digest_of_inbound
from messaging.sending.due import DueRow
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.identity import Identity


class Origin(NamedTuple):
    """Of one text: its batch; hashes of the inbound text that it answers, and of the key of the call for it."""

    batch_id: int | None = None
    inbound: str | None = None
    call: str | None = None


NO_ORIGIN = Origin()

_CALLS = select(tables.batches.c.id, tables.batches.c.call).where(
    one_of(tables.batches.c.id, "ids"), tables.batches.c.call.is_not(None)
)
_INBOUND = select(tables.inbound_messages.c.id, tables.inbound_messages.c.provider_inbound_id).where(
    one_of(tables.inbound_messages.c.id, "ids")
)


def find_origins(connection: Connection, identity: Identity, rows: Iterable[DueRow]) -> Mapping[int, Origin]:
    """By message, without those that have none."""
    sources = {row.id: (row.batch_id, row.inbound_id) for row in rows if row.batch_id or row.inbound_id}
    distinct = set(sources.values())
    batches = sorted({batch_id for batch_id, _ in distinct if batch_id})
    inbound = sorted({inbound_id for _, inbound_id in distinct if inbound_id})
    calls = {row.id: row.call for row in connection.execute(_CALLS, {"ids": batches})} if batches else {}
    answered = (
        {
            row.id: digest_of_inbound(identity, row.provider_inbound_id)
            for row in connection.execute(_INBOUND, {"ids": inbound})
        }
        if inbound
        else {}
    )
    origins = {one: Origin(one[0], answered.get(one[1] or 0), calls.get(one[0] or 0)) for one in distinct}
    return {message_id: origins[one] for message_id, one in sources.items()}
