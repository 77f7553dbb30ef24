"""What the processes of a test wrote to their logs, searched for what no log may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from messaging.storage import tables
from tests.support.databases import opened

# The programs of the other side, which are no part of the service.
NOT_OURS = ("simulator.log", "receiver.log")
NUMBER = re.compile(r"(?<!\w)(?:\+|%2[Bb])?(?:254|0)7\d{8}(?!\w)|(?<!\w)(?:\+|%2[Bb])\d{9,15}(?!\w)")
# A shorter one may be a word of a log line by itself.
SHORTEST_TEXT = 8
MOST_TEXTS = 200
AROUND = 60


def find_leaks(folder: Path, secrets: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Each with the log's name and what stands around it."""
    wanted = [one for one in (*secrets, *texts) if one]
    return [
        f"{path.name}: …{found}…"
        for path in sorted(folder.glob("*.log"))
        if path.name not in NOT_OURS
        for found in _found(path.read_text(errors="replace"), wanted)
    ]


def _found(log: str, wanted: list[str]) -> Iterator[str]:
    places = [match.start() for match in NUMBER.finditer(log)]
    places += [at for one in wanted if (at := log.find(one)) >= 0]
    return (log[max(0, at - AROUND) : at + AROUND] for at in places)


def texts_of(database_url: str) -> list[str]:
    """Some of those that were sent or came. None of a database that is down or gone by now."""
    columns = (tables.messages.c.text, tables.inbound_messages.c.text)
    try:
        with opened(database_url) as database, database.read() as connection:
            return [
                text
                for column in columns
                for text in connection.execute(
                    select(column)
                    .where(func.length(column) >= SHORTEST_TEXT)
                    .group_by(column)
                    .order_by(func.max(column.table.c.id).desc())
                    .limit(MOST_TEXTS)
                ).scalars()
            ]
    except SQLAlchemyError:
        return []
