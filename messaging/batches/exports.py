"""A batch as CSV, made while it is being read: a window of rows in memory, whatever the batch's size.

Cells are guarded against spreadsheets (utils.spreadsheets): `=…`, `@…` and the like stand behind an apostrophe,
an E.164 number keeps its plus unmarked, so that a program can use the column as it is. The mark at the beginning tells
Excel that it is UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, bindparam, func, select

from messaging import statuses
from messaging.batches.progress import require_batch
from messaging.batches.rows import DUPLICATE, RefusedRow
from messaging.storage import tables
from messaging.storage.database import Database
from utils import reasons
from utils.csv_files import fold
from utils.json_shapes import rfc3339
from utils.money import in_units
from utils.provider_codes import network_name
from utils.spreadsheets import csv_lines

WINDOW = 2000
MESSAGE_COLUMNS = (
    "line",
    "id",
    "to",
    "reference",
    "text",
    "sender_id",
    "status",
    "reason",
    "explanation",
    "remedy",
    "provider_message_id",
    "cost",
    "currency",
    "parts",
    "estimated_parts",
    "network",
    "created_at",
    "sent_at",
    "finished_at",
)
REFUSED_COLUMNS = ("line", "value", "code", "reason")
_READ = (
    "line",
    "cells",
    "id",
    "recipient",
    "reference",
    "text",
    "sender_id",
    "status",
    "reason",
    "provider_message_id",
    "cost_micros",
    "cost_currency",
    "parts",
    "estimated_parts",
    "network",
    "created_at",
    "sent_at",
    "finished_at",
)
# As a sum it is no key: else PostgreSQL looks for a batch's ends by walking over the rows of all others, and
# both stores read a million index entries of the batch again for every window.
_IS_IN_BATCH = tables.messages.c.batch_id + 0 == bindparam("batch_id")
_RANGE = select(func.min(tables.messages.c.id + 0), func.max(tables.messages.c.id + 0)).where(
    tables.messages.c.batch_id == bindparam("batch_id")
)
_WINDOW = (
    select(*(tables.messages.c[name] for name in _READ))
    .where(tables.messages.c.id.between(bindparam("first"), bindparam("last")), _IS_IN_BATCH)
    .order_by(tables.messages.c.id)
)
# What is on its way, or `unknown`, may have arrived.
_UNDELIVERED = _WINDOW.where(tables.messages.c.status.in_(sorted(statuses.SETTLED - {statuses.DELIVERED})))


def messages_csv(database: Database, batch_id: int) -> Iterator[str]:
    """In the order of the file, with its own columns. Raises NotFound, before the first line."""
    return _messages(database, batch_id, _WINDOW)


def undelivered_csv(database: Database, batch_id: int) -> Iterator[str]:
    """As `messages_csv`, those that are settled and not known to have arrived. Raises NotFound at once."""
    return _messages(database, batch_id, _UNDELIVERED)


def _messages(database: Database, batch_id: int, statement: Select[Any]) -> Iterator[str]:
    with database.read() as connection:
        titles = _kept_titles(require_batch(connection, batch_id))
        first, last = connection.execute(_RANGE, {"batch_id": batch_id}).one()
    windows = _message_windows(database, batch_id, first, last, statement)
    return csv_lines([*_ours(MESSAGE_COLUMNS, "message", titles), *titles], windows)


def _titles(batch: Row[Any]) -> list[str]:
    """What the file calls its columns."""
    titles: list[str] = [] if batch.file_columns is None else json.loads(batch.file_columns)
    return titles


def _kept_titles(batch: Row[Any]) -> list[str]:
    """Of a file of numbers alone no cells are kept with its messages: `messaging.batches.rows`."""
    titles = _titles(batch)
    return titles if len(titles) > 1 else []


def _ours(names: Sequence[str], prefix: str, titles: Sequence[str]) -> list[str]:
    """Our columns, under another name where the file has one so called."""
    taken = {fold(title) for title in titles}
    return [f"{prefix}_{name}" if name in taken else name for name in names]


def refused_csv(database: Database, batch_id: int) -> Iterator[str]:
    """By line of the file, with the file's own columns: so it can be mended and sent again. Raises NotFound at once."""
    return _not_taken(database, batch_id, tables.refused_rows.c.code != DUPLICATE)


def refused_csv_of(titles: Sequence[str], rows: Sequence[RefusedRow]) -> Iterator[str]:
    """As `refused_csv`, of a file that is not sent yet. `titles`: of its columns."""
    return _refused_lines(titles, [[_refused_cells(row) for row in rows]])


def duplicates_csv(database: Database, batch_id: int) -> Iterator[str]:
    """As `refused_csv`, the rows whose number stood there before with the same text. Raises NotFound at once."""
    return _not_taken(database, batch_id, tables.refused_rows.c.code == DUPLICATE)


def _not_taken(database: Database, batch_id: int, which: ColumnElement[bool]) -> Iterator[str]:
    with database.read() as connection:
        titles = _titles(require_batch(connection, batch_id))
    return _refused_lines(titles, _refused_windows(database, batch_id, which))


def _refused_lines(titles: Sequence[str], windows: Iterable[list[list[Any]]]) -> Iterator[str]:
    return csv_lines([*_ours(REFUSED_COLUMNS, "refused", titles), *titles], windows)


def _refused_cells(row: Row[Any] | RefusedRow) -> list[Any]:
    """The columns of `REFUSED_COLUMNS`, and the file's own."""
    return [*row[:-1], *(json.loads(row.cells) if row.cells else ())]


def _message_windows(
    database: Database, batch_id: int, first: int | None, last: int | None, statement: Select[Any]
) -> Iterator[list[list[Any]]]:
    """By ranges of ids, which stand together in a batch: no sorting, and no transaction longer than a window.

    One long read would keep SQLite's log from being folded back and PostgreSQL's dead rows from being removed.
    """
    if first is None or last is None:
        return
    for start in range(first, last + 1, WINDOW):
        window = {"first": start, "last": start + WINDOW - 1, "batch_id": batch_id}
        with database.read() as connection:
            rows = connection.execute(statement, window).all()
        yield [_message_cells(row) for row in rows]


def _refused_windows(
    database: Database, batch_id: int, which: ColumnElement[bool]
) -> Iterator[list[list[Any]]]:
    line = 0
    while True:
        statement = (
            select(*(tables.refused_rows.c[name] for name in (*REFUSED_COLUMNS, "cells")))
            .where(tables.refused_rows.c.batch_id == batch_id, tables.refused_rows.c.line > line, which)
            .order_by(tables.refused_rows.c.line)
            .limit(WINDOW)
        )
        with database.read() as connection:
            rows = connection.execute(statement).all()
        yield [_refused_cells(row) for row in rows]
        if len(rows) < WINDOW:
            return
        line = rows[-1].line


def _message_cells(row: Row[Any]) -> list[Any]:
    cost = None if row.cost_micros is None else in_units(row.cost_micros)
    explained = reasons.in_json(row.reason, row.status)
    return [
        row.line,
        row.id,
        row.recipient,
        row.reference,
        row.text,
        row.sender_id,
        row.status,
        row.reason,
        explained["explanation"],
        explained["remedy"],
        row.provider_message_id,
        cost,
        row.cost_currency,
        row.parts,
        row.estimated_parts,
        network_name(row.network),
        rfc3339(row.created_at),
        rfc3339(row.sent_at),
        rfc3339(row.finished_at),
        *(json.loads(row.cells) if row.cells else ()),
    ]
