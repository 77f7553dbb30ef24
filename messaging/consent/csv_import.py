"""Opt-outs that another system knew, from a CSV or Excel file: read as a stream, written in chunks.

The service's own export may come back: it has a row for each entry of the ledger, in force or not, and only what is in
force blocks anybody, by the source that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from sqlalchemy import Connection, insert, select

from messaging.access import actions
from messaging.consent.ledger import CALLBACK, EVERYTHING, KEYWORD, lock_phones, name_of_no_number
from messaging.consent.ledger_files import (
    ACTION,
    CHUNK,
    SENDER_ID,
    Imported,
    Kind,
    header_of,
    is_in_force,
    named_cells,
    require_one_row,
    rows_of,
)
from messaging.forwarding import events
from messaging.storage import tables
from messaging.storage.bulk import insert_for, one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.new_ids import reserve_ids
from utils.csv_files import Header
from utils.errors import InvalidPhone
from utils.phone_numbers import read_phone
from utils.sender_ids import sender_key, validate_sender
from utils.uploaded_files import as_csv

SOURCE = "import"
# A reason in another encoding must not keep a number from being stopped.
KIND = Kind("stop", "replace")
# What may lift a block depends on its source: START lifts only what STOP has blocked.
SOURCES = frozenset({KEYWORD, CALLBACK, "refused_406", "report", "operator", "api", SOURCE})
LONGEST_REASON = 500

_BLOCKS = (
    select(tables.suppressions.c.phone, tables.suppressions.c.sender_id, tables.opt_outs.c.source)
    .join(tables.opt_outs, tables.opt_outs.c.id == tables.suppressions.c.opt_out_id)
    .where(one_of(tables.suppressions.c.phone, "phones"))
)


class Stop(NamedTuple):
    """`sender_id` as the ledger spells it; empty: everything we send."""

    phone: str
    sender_id: str
    detail: str | None
    source: str


def import_opt_outs(
    database: Database,
    file: BinaryIO,
    default_region: str | None,
    progress: Callable[[], object] = lambda: None,
) -> Imported:
    """The columns: `phone`, and where wanted `sender_id` and `reason`; or those of the export, which are
    `action` and `in_force` too. Harmless to repeat after a break.

    `file` is read twice: nothing is written before all of it is known to be readable, for a quotation mark that is
    never closed hides the rows behind it. `progress` is called after each chunk. Raises InvalidFile.
    """
    with as_csv(file) as readable:
        header = header_of(readable, KIND)
        imported = Imported()
        rows = rows_of(readable, header, KIND)
        while chunk := list(islice(rows, CHUNK)):
            found = imported.readable(chunk, lambda cells: _stop(header, cells, default_region))
            stops = [stop for _line, stop in found]
            with database.write(settled=True) as connection:
                added = _record(connection, stops)
                if added:
                    actions.note(connection, "opt_out.import", "opt_outs", None, {"added": added})
            imported.added += added
            imported.known += len(stops) - added
            progress()
    return imported


def _stop(header: Header, cells: Sequence[str], default_region: str | None) -> Stop | None:
    """None where it is one no more."""
    require_one_row(header, cells)
    row = named_cells(header, cells)
    if not is_in_force(row):
        return None
    phone = _phone(row, cells[header.phone] if len(cells) > header.phone else "", default_region)
    sender_id = row.get(SENDER_ID) or None
    validate_sender(sender_id)
    reason = (row.get("reason") or row.get("detail", ""))[:LONGEST_REASON].replace("\0", "\ufffd")
    source = row.get("source", "") if ACTION in row else SOURCE
    return Stop(
        phone,
        EVERYTHING if sender_id is None else sender_key(sender_id),
        reason or None,
        source if source in SOURCES else SOURCE,
    )


def _phone(row: Mapping[str, str], cell: str, default_region: str | None) -> str:
    try:
        return read_phone(cell, default_region).e164
    except InvalidPhone:
        # The ledger also blocks what is no number (`MTN`), as the string it is.
        if ACTION not in row or not cell.strip() or cell.strip().startswith("+"):
            raise
        return name_of_no_number(cell.strip())


def _record(connection: Connection, stops: Sequence[Stop]) -> int:
    """As `opt_outs.record_stop` for each, in a handful of statements; how many blocks were not there before."""
    wanted = {(one.phone, one.sender_id): one for one in stops}
    lock_phones(connection, [phone for phone, _ in wanted])
    phones = {"phones": sorted({phone for phone, _ in wanted})}
    blocks = {(row.phone, row.sender_id): row.source for row in connection.execute(_BLOCKS, phones)}
    # One that only its sender may lift replaces one that anybody's START lifts, not the other way round.
    new = [
        stop
        for key, stop in wanted.items()
        if key not in blocks or (blocks[key] == KEYWORD and stop.source != KEYWORD)
    ]
    if new:
        _write(connection, new)
    return len(new)


def _write(connection: Connection, new: Sequence[Stop]) -> None:
    now = wall_clock(connection)
    ids = reserve_ids(connection, tables.opt_outs, len(new))
    said: list[dict[str, Any]] = [
        {
            "phone": one.phone,
            "action": "stop",
            "scope": "sender" if one.sender_id else "all",
            "sender_id": one.sender_id,
            "source": one.source,
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
