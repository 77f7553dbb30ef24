"""Consents that another system knew, from a CSV or Excel file, and the ledger as such a file.

A file is a claim about the past: it undoes no withdrawal, unless it says that the person agreed after it. Else a list
that is imported a second time would text who has withdrawn since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, insert, select

from messaging.access import actions
from messaging.consent.consents import GIVE, WITHDRAW, Terms, lock_phones, put_in_force, terms_of
from messaging.consent.ledger import EVERYTHING
from messaging.consent.ledger_files import (
    ACTION,
    CHUNK,
    IN_FORCE,
    SENDER_ID,
    Imported,
    Kind,
    header_of,
    is_in_force,
    named_cells,
    require_no_extra_cells,
    require_one_row,
    rows_of,
)
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.new_ids import reserve_ids
from utils.csv_files import Header, InvalidFile, fold
from utils.errors import InvalidInput
from utils.local_times import read_local_time
from utils.phone_numbers import read_phone
from utils.sender_ids import sender_key, validate_sender
from utils.spreadsheets import without_mark
from utils.uploaded_files import as_csv

SOURCE = "import"
# Wrongly decoded words would be false evidence.
KIND = Kind(GIVE, "strict")
SHORT, LONG = 100, 2000
# By the names of `Terms`: how long each may be. What is longer is refused, for a part of it would prove nothing.
LONGEST = {"source": SHORT, "purpose": SHORT, "wording": LONG, "wording_version": SHORT, "evidence": LONG}
_COLUMNS = frozenset({"id", "at", ACTION, SENDER_ID, IN_FORCE, *map(fold, LONGEST)})

_LEDGER = tables.consents
_STANDING = (
    select(_LEDGER)
    .join(tables.consents_in_force, tables.consents_in_force.c.consent_id == _LEDGER.c.id)
    .where(one_of(tables.consents_in_force.c.phone, "phones"))
)
_WITHDRAWN = select(_LEDGER.c.phone, _LEDGER.c.sender_id, _LEDGER.c.at).where(
    one_of(_LEDGER.c.phone, "phones"), _LEDGER.c.action == WITHDRAW
)


class _Given(NamedTuple):
    """`sender_id` as the ledger spells it; empty: everything we send. `at`: None where the file does not say."""

    phone: str
    sender_id: str
    terms: Terms
    at: datetime | None


def import_consents(
    database: Database,
    file: BinaryIO,
    default_region: str | None,
    zone: ZoneInfo,
    progress: Callable[[], object] = lambda: None,
) -> Imported:
    """The columns: `phone`, and where wanted `sender_id`, `purpose`, `wording`, `wording_version`, `source`, `evidence`
    and `at`, when the person agreed (`zone`, where it has no offset); or those of the export. Harmless to repeat after
    a break. Nothing is written before all of the file is known to be readable. Raises InvalidFile.
    """
    with as_csv(file) as readable:
        header = header_of(readable, KIND)
        _require_known_columns(header)
        imported = Imported()
        rows = rows_of(readable, header, KIND)
        while chunk := list(islice(rows, CHUNK)):
            given = list(imported.readable(chunk, lambda cells: _given(header, cells, default_region, zone)))
            with database.write(settled=True) as connection:
                _record(connection, given, imported)
            progress()
    # A withdrawal is found behind what the rows themselves say.
    imported.refused.sort(key=lambda one: int(str(one["line"])))
    return imported


def _require_known_columns(header: Header) -> None:
    """A `wordng` that is passed over would be a consent without its words."""
    strange = [
        title
        for place, (name, title) in enumerate(zip(header.names, header.titles, strict=True))
        if name and place != header.phone and name not in _COLUMNS
    ]
    if strange:
        known = ", ".join(("phone", "sender_id", *LONGEST, "at"))
        raise InvalidFile(
            f"The column {strange[0]!r} says nothing of a consent: the file may have {known}. Leave it out",
            code="unknown_column",
            field="file",
            details={"columns": strange},
        )


def _given(header: Header, cells: Sequence[str], default_region: str | None, zone: ZoneInfo) -> _Given | None:
    """None for what is in force no more. Raises InvalidInput."""
    is_export = ACTION in header.names
    # An export quotes as it should, and the words of a form may have several lines.
    (require_no_extra_cells if is_export else require_one_row)(header, cells)
    row = named_cells(header, cells)
    if not is_in_force(row):
        return None
    if is_export and row.get(ACTION, "").casefold() != GIVE:
        raise InvalidInput(f"The action {row.get(ACTION, '')!r} is nothing in force", code="invalid_action")
    phone = read_phone(cells[header.phone] if len(cells) > header.phone else "", default_region).e164
    sender_id = row.get(SENDER_ID) or None
    validate_sender(sender_id)
    at = read_local_time(row["at"], zone) if row.get("at") else None
    key = EVERYTHING if sender_id is None else sender_key(sender_id)
    return _Given(phone, key, _terms(row, is_export=is_export), at)


def _terms(row: Mapping[str, str], *, is_export: bool) -> Terms:
    said: dict[str, str | None] = {}
    for name, longest in LONGEST.items():
        words = row.get(fold(name), "").replace("\0", "\ufffd")
        words = without_mark(words) if is_export else words
        if len(words) > longest:
            raise InvalidInput(
                f"{name} has {len(words)} characters; at most {longest} are kept", code="too_long"
            )
        said[name] = words or None
    return Terms(said.pop("source") or SOURCE, **said)


def _record(connection: Connection, given: Sequence[tuple[int, _Given]], imported: Imported) -> None:
    """As `consents.give` for each, in a handful of statements."""
    phones = sorted({one.phone for _line, one in given})
    lock_phones(connection, phones)
    now = wall_clock(connection)
    asked = {"phones": phones}
    standing = {
        (row.phone, row.sender_id): (terms_of(row), row.at) for row in connection.execute(_STANDING, asked)
    }
    withdrawn: dict[str, list[Any]] = {}
    for row in connection.execute(_WITHDRAWN, asked):
        withdrawn.setdefault(row.phone, []).append(row)
    new: dict[tuple[str, str], _Given] = {}
    for line, one in given:
        key = one.phone, one.sender_id
        if _is_known(one, standing.get(key)):
            imported.known += 1
            continue
        try:
            _require_true(one, withdrawn.get(one.phone, ()), now)
        except InvalidInput as error:
            imported.refuse(line, error)
            continue
        imported.added += 1
        standing[key] = one.terms, one.at or now
        new[key] = one
    if new:
        _write(connection, list(new.values()), now)
        actions.note(connection, "consent.import", "consents", None, {"added": len(new)})


def _is_known(one: _Given, standing: tuple[Terms, datetime] | None) -> bool:
    """Whether the same stands already, or what the person said later."""
    if standing is None:
        return False
    terms, at = standing
    return one.terms == terms if one.at is None else one.at < at or (one.at, one.terms) == (at, terms)


def _require_true(one: _Given, withdrawn: Sequence[Any], now: datetime) -> None:
    """Raises InvalidInput for a time to come, and where the person has withdrawn since."""
    if one.at is not None and one.at > now:
        raise InvalidInput("at lies in the future: it is when the person agreed", code="invalid_time")
    theirs = [
        row.at
        for row in withdrawn
        if EVERYTHING in (row.sender_id, one.sender_id) or row.sender_id == one.sender_id
    ]
    if theirs and (one.at is None or one.at <= max(theirs)):
        raise InvalidInput(
            f"{one.phone} has withdrawn a consent since: say in a column `at` that they agreed later,"
            " or add it by `sms consents add`",
            code="withdrawn",
        )


def _write(connection: Connection, new: Sequence[_Given], now: datetime) -> None:
    ids = reserve_ids(connection, _LEDGER, len(new))
    entries = [
        {
            "id": entry_id,
            "phone": one.phone,
            "action": GIVE,
            "sender_id": one.sender_id,
            "at": one.at or now,
            **asdict(one.terms),
        }
        for entry_id, one in zip(ids, new, strict=True)
    ]
    connection.execute(insert(_LEDGER), entries)
    given = [(one.phone, one.sender_id, entry_id) for entry_id, one in zip(ids, new, strict=True)]
    put_in_force(connection, given)
