"""Both sides at rest, read whole: what our database says, what AT (the simulator) took, what the handsets got."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, func, select

from messaging import statuses
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.stack import Stack

# Recipient and text: no two accepted messages have both in common.
Key = tuple[str, str]

_TAKEN = """
SELECT texts.number, posts.text, texts.message_id, texts.is_received, texts.report
FROM texts JOIN posts ON posts.id = texts.post_id
WHERE texts.refusal IS NULL
"""


class Taken(NamedTuple):
    """A text that AT accepted. `report`: the word of the report it causes, None for none."""

    number: str
    text: str
    provider_id: str
    is_received: bool
    report: str | None


@dataclass(frozen=True)
class Books:
    messages: Mapping[Key, Sequence[Row[Any]]]
    attempts: Mapping[int, Row[Any]]
    turned_unknown: Sequence[Row[Any]]
    recipients_of: Mapping[int, Sequence[str]]
    recipient_of: Mapping[int, str]
    inbound: Mapping[str, Row[Any]]
    taken: Mapping[Key, Sequence[Taken]]
    received: Mapping[Key, int]
    counts: Mapping[str, int]

    @cached_property
    def once_unknown(self) -> set[int]:
        return {event.message_id for event in self.turned_unknown}


def read_books(database: Database, stack: Stack) -> Books:
    received = Counter((item["to"], item["text"]) for item in stack.ledger())
    return books_of(database, read_taken(stack.folder / "simulator.db"), received)


def books_of(database: Database, taken: Sequence[Taken], received: Mapping[Key, int]) -> Books:
    with database.read() as connection:
        rows = _all(connection, select(tables.messages))
        tries = _all(connection, select(tables.attempts))
        unknown = _all(
            connection,
            select(tables.message_events).where(tables.message_events.c.status == statuses.UNKNOWN),
        )
        inbound = _all(connection, select(tables.inbound_messages))
        counts = _report_counts(connection)
    recipients: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        recipients[row.attempt_id].append(row.recipient)
    return Books(
        messages=_grouped(rows, lambda row: (row.recipient, row.text)),
        attempts={row.id: row for row in tries},
        turned_unknown=unknown,
        recipients_of=recipients,
        recipient_of={row.id: row.recipient for row in rows},
        inbound={row.provider_inbound_id: row for row in inbound},
        taken=_grouped(taken, lambda one: (one.number, one.text)),
        received=received,
        counts=counts,
    )


def read_taken(simulator_database: Path) -> list[Taken]:
    """Its own tables, for its HTTP answers tell of what phones received and not of what was accepted."""
    uri = f"file:{simulator_database}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return [Taken(one[0], one[1], one[2], bool(one[3]), one[4]) for one in connection.execute(_TAKEN)]


def _report_counts(connection: Connection) -> dict[str, int]:
    by_effect = select(tables.delivery_reports.c.effect, func.count()).group_by(
        tables.delivery_reports.c.effect
    )
    return {f"reports {effect}": count for effect, count in connection.execute(by_effect)}


def _all(connection: Connection, statement: Select[Any]) -> Sequence[Row[Any]]:
    return connection.execute(statement).all()


def _grouped(rows: Sequence[Any], key: Any) -> dict[Key, list[Any]]:
    groups: dict[Key, list[Any]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups
