"""Inbound back-fill: reads AT's inbox after an outage and takes in what no callback brought.

AT gives a hundred texts at a time, oldest first, after an id that is kept here; a page and that id are one
transaction, so that a run that is cut off goes on where it was. A text that is new is journaled as kind
`fetched` and then means what it would have meant by callback: it is obeyed, kept, forwarded. It is answered
only if it was sent within the last hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from sqlalchemy import Connection, func, select

from messaging.callbacks import apply, journal, receive
from messaging.conversations import same_text
from messaging.conversations.receive import InboundText
from messaging.conversations.same_text import PREFIX, Said
from messaging.storage import tables
from messaging.storage.bulk import insert_for
from messaging.storage.database import Database
from utils.errors import ProviderUnreachable
from utils.json_shapes import LARGEST_ID
from utils.settings import Settings

KIND = receive.FETCHED
LAST_ID = "inbox_last_id"
FORM = "application/x-www-form-urlencoded"
_FIELDS = ("from", "to", "text", "date", "linkId", "networkCode", "cost")


class Provider(Protocol):
    def fetch_inbox(self, last_received_id: int | str = 0) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """So far. `known`: had come by callback or by an earlier run. `unusable`: journaled, but lacks a field."""

    read: int = 0
    added: int = 0
    known: int = 0
    unusable: int = 0
    last_id: int = 0


def fetch_inbound(
    settings: Settings, database: Database, provider: Provider, after_id: int | None = None
) -> Iterator[Fetched]:
    """One state after each page, the last one being the result. `after_id`: instead of the id that is kept.

    Raises a ProviderError; what was read before stays.
    """
    with database.read() as connection:
        last_id = _last_id(connection) if after_id is None else after_id
    so_far = Fetched(last_id=last_id)
    while page := provider.fetch_inbox(so_far.last_id):
        so_far = _take_in(settings, database, page, so_far)
        yield so_far
    yield so_far


def _take_in(
    settings: Settings, database: Database, page: Sequence[Mapping[str, Any]], so_far: Fetched
) -> Fetched:
    entries = {inbox_id: entry for entry in page if (inbox_id := _id_of(entry)) is not None}
    last_id = max(entries, default=so_far.last_id)
    if last_id <= so_far.last_id:
        raise ProviderUnreachable(
            f"Africa's Talking's inbox does not move on after id {so_far.last_id}", reason="unreadable_answer"
        )
    bodies = {inbox_id: _body_of(inbox_id, entry) for inbox_id, entry in sorted(entries.items())}
    region = settings.default_region
    with database.write() as connection:
        same_text.take_lock(connection)
        known, usable = _known(connection, bodies, region)
        new = [receive.read_callback(KIND, bodies[one], FORM, region) for one in bodies if one not in known]
        # With care: one that cannot be applied stays in the journal, to be replayed, and holds nobody up.
        if new:
            apply.apply_group(settings, connection, new, with_care=True)
        added = len(usable - known)
        _keep_last_id(connection, last_id)
    return Fetched(
        read=so_far.read + len(page),
        added=so_far.added + added,
        known=so_far.known + len(known),
        unusable=so_far.unusable + len(page) - len(known) - added,
        last_id=last_id,
    )


def _known(
    connection: Connection, bodies: Mapping[int, bytes], default_region: str | None
) -> tuple[set[int], set[int]]:
    """The inbox ids of those that we have, and of those that can be used at all."""
    said = [
        one for inbox_id, body in bodies.items() if (one := _read(inbox_id, body, default_region)) is not None
    ]
    return same_text.join_inbox(connection, said), {one.key for one in said}


def _read(inbox_id: int, body: bytes, default_region: str | None) -> Said | None:
    try:
        content = receive.read_content(KIND, body, default_region)
    except receive.Unusable:
        return None
    if not isinstance(content, InboundText):
        return None
    return Said(inbox_id, content.sender, content.recipient, content.text, content.provider_date)


def _id_of(entry: Mapping[str, Any]) -> int | None:
    value = str(entry.get("id", ""))
    is_number = value.isascii() and value.isdigit() and int(value) <= LARGEST_ID
    return int(value) if is_number else None


def _body_of(inbox_id: int, entry: Mapping[str, Any]) -> bytes:
    """As the callback would have brought it, for the journal and for a replay."""
    fields = {name: str(entry[name]) for name in _FIELDS if entry.get(name) is not None}
    return urlencode({"id": f"{PREFIX}{inbox_id}", **fields}).encode()


def _last_id(connection: Connection) -> int:
    return (
        connection.execute(select(tables.counters.c.value).where(tables.counters.c.name == LAST_ID)).scalar()
        or 0
    )


def _keep_last_id(connection: Connection, last_id: int) -> None:
    """Never backwards: another run may be further."""
    statement = insert_for(connection, tables.counters).values(name=LAST_ID, value=last_id)
    greater = func.max if connection.dialect.name == "sqlite" else func.greatest
    kept = {"value": greater(tables.counters.c.value, last_id)}
    connection.execute(statement.on_conflict_do_update(index_elements=[tables.counters.c.name], set_=kept))


def count_unapplied(connection: Connection) -> int:
    """Fetched texts that are journaled but could not be applied: `sms replay --unapplied` tries them again."""
    statement = select(func.count()).where(
        tables.callbacks.c.kind == KIND, tables.callbacks.c.outcome == journal.UNAPPLIED
    )
    return connection.execute(statement).scalar_one()
