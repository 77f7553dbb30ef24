"""Everything that shows why a person was or was not texted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from messaging.consent import consents
from messaging.consent import views as opt_outs
from messaging.messages import views as messages
from messaging.storage.database import Database

PAGE = 200
ReadPage = Callable[[str | None], dict[str, Any]]


def prove(database: Database, phone: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Consents, opt-outs with their evidence, then messages with their histories, each newest first.

    `phone`: E.164. A page in memory at a time.
    """
    filters = opt_outs.LedgerFilters(phone=phone)
    texts = messages.MessageFilters(to=phone)
    kinds: dict[str, ReadPage] = {
        "consent": lambda cursor: consents.list_consents(database, phone, cursor=cursor, limit=PAGE),
        "opt_out": lambda cursor: opt_outs.list_entries(database, filters, cursor, PAGE),
        "message": lambda cursor: messages.list_messages(database, texts, cursor, PAGE),
    }
    for kind, read in kinds.items():
        for item in _items(read):
            whole = messages.get_message(database, item["id"]) if kind == "message" else item
            yield kind, whole


def _items(read: ReadPage) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        found = read(cursor)
        yield from found["items"]
        cursor = found["next_cursor"]
        if cursor is None:
            return
