"""Opt-outs that another system knew, from a CSV file: read as a stream, written in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from sqlalchemy import Connection, insert, select

from messaging.consent.ledger import EVERYTHING, KEYWORD, lock_phones
from messaging.forwarding import events
from messaging.storage import tables
from messaging.storage.bulk import insert_for, one_of
from messaging.storage.database import Database
from utils.csv_files import LONGEST_HEADER_BYTES, Header, fold, read_header, read_rows
from utils.errors import InvalidInput
from utils.phone_numbers import read_phone
from utils.sender_ids import sender_key, validate_sender

SOURCE = "import"
SENDER_ID = fold("sender_id")
# Small, so that callbacks that come in meanwhile do not wait long for the one writer of SQLite.
CHUNK = 500
MOST_NAMED = 100
LONGEST_REASON = 500

Row = tuple[int, list[str]]

_STANDING = (
    select(tables.suppressions.c.phone, tables.suppressions.c.sender_id, tables.opt_outs.c.source)
    .join(tables.opt_outs, tables.opt_outs.c.id == tables.suppressions.c.opt_out_id)
    .where(one_of(tables.suppressions.c.phone, "phones"))
)


class Stop(NamedTuple):
    """`sender_id` as the ledger spells it; empty: everything we send."""

    phone: str
    sender_id: str
    detail: str | None


@dataclass(slots=True)
class Imported:
    """`refused`: the first rows that could not be used, by line; `refused_count` counts all of them."""

    added: int = 0
    known: int = 0
    refused_count: int = 0
    refused: list[dict[str, object]] = field(default_factory=list)


def import_opt_outs(
    database: Database,
    file: BinaryIO,
    default_region: str | None,
    progress: Callable[[], object] = lambda: None,
) -> Imported:
    """The columns: `phone`, and where wanted `sender_id` and `reason`. Harmless to repeat after a break.

    `file` is read twice: nothing is written before all of it is known to be readable, for a quotation mark that is
    never closed hides the rows behind it. `progress` is called after each chunk. Raises InvalidFile.
    """
    # A reason in another encoding must not keep a number from being stopped.
    beginning = file.read(LONGEST_HEADER_BYTES).decode("utf-8", "replace").encode()
    header = read_header(beginning)
    for _ in _rows(file, header):
        pass
    imported = Imported()
    rows = _rows(file, header)
    while chunk := list(islice(rows, CHUNK)):
        stops = list(_readable(chunk, header, default_region, imported))
        with database.write(settled=True) as connection:
            added = _record(database, connection, stops)
        imported.added += added
        imported.known += len(stops) - added
        progress()
    return imported


def _rows(file: BinaryIO, header: Header) -> Iterator[Row]:
    file.seek(0)
    return read_rows(file, header, decoding_errors="replace")


def _readable(
    chunk: Sequence[Row], header: Header, default_region: str | None, imported: Imported
) -> Iterator[Stop]:
    for line, cells in chunk:
        try:
            yield _stop(header, cells, default_region)
        except InvalidInput as error:
            imported.refused_count += 1
            if len(imported.refused) < MOST_NAMED:
                imported.refused.append({"line": line, "code": error.code, "message": error.message})


def _stop(header: Header, cells: Sequence[str], default_region: str | None) -> Stop:
    _require_one_row(header, cells)
    row = dict(zip(header.names, (cell.strip() for cell in cells), strict=False))
    phone = read_phone(cells[header.phone] if len(cells) > header.phone else "", default_region).e164
    sender_id = row.get(SENDER_ID) or None
    validate_sender(sender_id)
    reason = row.get("reason", "")[:LONGEST_REASON].replace("\0", "\ufffd")
    return Stop(phone, EVERYTHING if sender_id is None else sender_key(sender_id), reason or None)


def _require_one_row(header: Header, cells: Sequence[str]) -> None:
    """A row that may hide others is not guessed at: the people in it would go on being texted."""
    if any("\n" in cell or "\r" in cell for cell in cells):
        raise InvalidInput(
            "A cell of this row goes over several lines: is a quotation mark closed too late?",
            code="line_break",
        )
    if header.has_extra_cells(cells):
        raise InvalidInput("This row has a cell under no column's name", code="extra_cells")


def _record(database: Database, connection: Connection, stops: Sequence[Stop]) -> int:
    """As `opt_outs.record_stop` for each, in a handful of statements; how many blocks were not there before."""
    wanted = {(one.phone, one.sender_id): one for one in stops}
    lock_phones(connection, [phone for phone, _ in wanted])
    phones = {"phones": sorted({phone for phone, _ in wanted})}
    standing = {(row.phone, row.sender_id): row.source for row in connection.execute(_STANDING, phones)}
    new = [stop for key, stop in wanted.items() if standing.get(key, KEYWORD) == KEYWORD]
    if new:
        _write(database, connection, new)
    return len(new)


def _write(database: Database, connection: Connection, new: Sequence[Stop]) -> None:
    now = database.now(connection)
    ids = database.reserve_ids(connection, tables.opt_outs, len(new))
    said: list[dict[str, Any]] = [
        {
            "phone": one.phone,
            "action": "stop",
            "scope": "sender" if one.sender_id else "all",
            "sender_id": one.sender_id,
            "source": SOURCE,
        }
        for one in new
    ]
    more = [{"id": entry_id, "detail": one.detail, "at": now} for entry_id, one in zip(ids, new, strict=True)]
    connection.execute(insert(tables.opt_outs), [row | rest for row, rest in zip(said, more, strict=True)])
    block = insert_for(connection, tables.suppressions)
    connection.execute(
        block.on_conflict_do_update(
            index_elements=[tables.suppressions.c.phone, tables.suppressions.c.sender_id],
            set_={"opt_out_id": block.excluded.opt_out_id},
        ),
        [
            {"phone": one.phone, "sender_id": one.sender_id, "opt_out_id": entry_id}
            for entry_id, one in zip(ids, new, strict=True)
        ],
    )
    events.note_opt_outs(connection, [row | {"at": now} for row in said])
