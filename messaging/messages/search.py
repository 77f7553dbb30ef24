"""Messages found by the words of their texts: FTS5 on SQLite, `tsvector` on PostgreSQL, in a table of its own.

Sweeps fill it, in the order of ids, so that no text pays for it on its way: a text is found a minute or two after it
came. Whoever erases a text takes its words out first (`remove`), and at the end what is left of them (`purge`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, TextClause, func, select, text

from messaging.storage import tables
from messaging.storage.bulk import insert_for
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database, lock_keys
from utils.errors import InvalidInput

CHUNK = 500
# Of one sweep, which has more to do: a batch of a million is searchable after twenty minutes.
MOST_AT_ONCE = 50_000
# Callbacks come in between two chunks.
BREATH_SECONDS = 0.01
# A transaction may commit an id that is lower than one that is here already; none is open for so long.
SETTLED_AFTER = timedelta(minutes=1)
INDEXED = "search_indexed_up_to"
# Pages of SQLite's index that one statement merges.
MERGED_PAGES = 500
# As both stores cut words. An underscore is no part of one.
_WORDS = re.compile(r"[^\W_]+")

_NEXT = select(tables.messages.c.id, tables.messages.c.created_at).order_by(tables.messages.c.id).limit(CHUNK)
_INSERT = {
    "sqlite": text(
        "INSERT INTO message_search (rowid, text) SELECT id, text FROM messages WHERE id > :after AND id <= :last"
    ),
    "postgresql": text(
        "INSERT INTO message_search (message_id, words) SELECT id, to_tsvector('simple', text) FROM messages"
        " WHERE id > :after AND id <= :last"
    ),
}
# FTS5 keeps no texts here, so it has to be told what it is to forget.
_REMOVE_FROM_SQLITE = (
    "INSERT INTO message_search (message_search, rowid, text) SELECT 'delete', id, text FROM messages"
    " WHERE id IN (SELECT value FROM json_each(:ids)) AND id <= :indexed AND text <> ''"
)
_REMOVE_FROM_POSTGRESQL = "DELETE FROM message_search WHERE message_id = ANY(CAST(:ids AS bigint[]))"
_FOUND = {
    "sqlite": "messages.id IN (SELECT rowid FROM message_search WHERE message_search MATCH :words)",
    "postgresql": (
        "messages.id IN (SELECT message_id FROM message_search WHERE words @@ plainto_tsquery('simple', :words))"
    ),
}


def has_words(connection: Connection, wanted: str) -> TextClause:
    """A condition on `messages`: every word of `wanted` occurs in the text, in any case and order.

    Raises InvalidInput where there is no word in it.
    """
    words = _WORDS.findall(wanted)
    if not words:
        raise InvalidInput("There is no word to search for", code="nothing_to_search", field="text")
    store = connection.dialect.name
    query = " ".join(f'"{word}"' for word in words) if store == "sqlite" else " ".join(words)
    return text(_FOUND[store]).bindparams(words=query)


def index_new(database: Database) -> int:
    """Takes up what has come since; how many texts."""
    count = 0
    while count < MOST_AT_ONCE:
        with database.write() as connection:
            done = _index_some(connection, wall_clock(connection) - SETTLED_AFTER)
        count += done
        if done < CHUNK:
            break
        time.sleep(BREATH_SECONDS)
    return count


def _index_some(connection: Connection, before: datetime) -> int:
    lock_keys(connection, [INDEXED])
    after = _indexed_up_to(connection)
    rows = connection.execute(_NEXT.where(tables.messages.c.id > after)).all()
    ready = next((place for place, row in enumerate(rows) if row.created_at >= before), len(rows))
    if not ready:
        return 0
    last = rows[ready - 1].id
    connection.execute(_INSERT[connection.dialect.name], {"after": after, "last": last})
    mark = insert_for(connection, tables.counters).values(name=INDEXED, value=last)
    connection.execute(
        mark.on_conflict_do_update(index_elements=[tables.counters.c.name], set_={"value": last})
    )
    return ready


def _indexed_up_to(connection: Connection) -> int:
    statement = select(tables.counters.c.value).where(tables.counters.c.name == INDEXED)
    return connection.execute(statement).scalar() or 0


def take_turn(connection: Connection) -> None:
    """Whoever takes up words at this moment would else write down those that are just being erased. Before any lock on
    a message: two that erase would else wait for each other."""
    lock_keys(connection, [INDEXED])


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Before the texts of these messages are erased, in the same transaction."""
    asked = {"ids": "[" + ",".join(map(str, ids)) + "]"}
    take_turn(connection)
    if connection.dialect.name == "sqlite":
        connection.execute(text(_REMOVE_FROM_SQLITE), asked | {"indexed": _indexed_up_to(connection)})
    else:
        connection.execute(text(_REMOVE_FROM_POSTGRESQL), {"ids": "{" + asked["ids"][1:-1] + "}"})


def purge(database: Database) -> None:
    """After `remove`: on SQLite its words stand in older parts of the index until these are merged. Elsewhere VACUUM
    does it."""
    if not database.is_sqlite:
        return
    pages = -MERGED_PAGES
    while _merge(database, pages) > 1:
        pages = MERGED_PAGES
        time.sleep(BREATH_SECONDS)


def _merge(database: Database, pages: int) -> int:
    """How many rows of the index changed; fewer than two: there was nothing to merge."""
    with database.write() as connection:
        before = connection.execute(select(func.total_changes())).scalar_one()
        connection.execute(
            text("INSERT INTO message_search (message_search, rank) VALUES ('merge', :pages)"),
            {"pages": pages},
        )
        return int(connection.execute(select(func.total_changes())).scalar_one()) - int(before)
