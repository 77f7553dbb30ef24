"""What files of opt-outs and of consents have in common: read as a stream, strictly, with their refused rows named.

The service's own exports may come back: they have a row for each entry of the ledger, in force or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, TypeVar

from utils.csv_files import LONGEST_HEADER_BYTES, Header, InvalidFile, fold, read_header, read_rows
from utils.errors import InvalidInput

SENDER_ID, IN_FORCE, ACTION = fold("sender_id"), fold("in_force"), "action"
_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})
# Small, so that callbacks that come in meanwhile do not wait long for the one writer of SQLite.
CHUNK = 500
MOST_NAMED = 100

Row = tuple[int, list[str]]
Found = TypeVar("Found")


class Kind(NamedTuple):
    """`action`: the one that may be in force. `decoding_errors`: in Python's words."""

    action: str
    decoding_errors: str


@dataclass(slots=True)
class Imported:
    """`refused`: the first rows that could not be used, by line; `refused_count` counts all of them. `ended`: rows of a
    ledger that count no more."""

    added: int = 0
    known: int = 0
    ended: int = 0
    refused_count: int = 0
    refused: list[dict[str, object]] = field(default_factory=list)

    def refuse(self, line: int, error: InvalidInput) -> None:
        self.refused_count += 1
        if len(self.refused) < MOST_NAMED:
            self.refused.append({"line": line, "code": error.code, "message": error.message})

    def readable(
        self, chunk: Sequence[Row], read: Callable[[Sequence[str]], Found | None]
    ) -> Iterator[tuple[int, Found]]:
        """What `read` makes of the rows, with their lines. None is a row that counts no more."""
        for line, cells in chunk:
            try:
                found = read(cells)
            except InvalidInput as error:
                self.refuse(line, error)
                continue
            if found is None:
                self.ended += 1
            else:
                yield line, found


def header_of(file: BinaryIO, kind: Kind) -> Header:
    """Once all rows are known to be readable. Raises InvalidFile."""
    beginning = file.read(LONGEST_HEADER_BYTES).decode("utf-8", kind.decoding_errors).encode()
    header = read_header(beginning)
    for line, cells in rows_of(file, header, kind):
        _require_state(header, line, cells, kind)
    return header


def rows_of(file: BinaryIO, header: Header, kind: Kind) -> Iterator[Row]:
    file.seek(0)
    return read_rows(file, header, decoding_errors=kind.decoding_errors)


def _require_state(header: Header, line: int, cells: Sequence[str], kind: Kind) -> None:
    """Raises InvalidFile where the file tells of entries that ended, but not which."""
    if ACTION not in header.names or IN_FORCE in header.names:
        return
    action = named_cells(header, cells).get(ACTION, "")
    if action.casefold() != kind.action:
        raise InvalidFile(
            f"Line {line} has the action {action!r}, and without a column `in_force` nobody can tell which entries"
            " are over: leave the ended ones out, or export with that column",
            code="missing_column",
            field="file",
        )


def named_cells(header: Header, cells: Sequence[str]) -> dict[str, str]:
    return dict(zip(header.names, (cell.strip() for cell in cells), strict=False))


def is_in_force(row: Mapping[str, str]) -> bool:
    """Raises InvalidInput for a word that says neither: to guess would text somebody, or stop somebody's texts."""
    if IN_FORCE not in row:
        return True
    said = row[IN_FORCE].casefold()
    if said not in _TRUE | _FALSE:
        raise InvalidInput(f"in_force is true or false, not {row[IN_FORCE]!r}", code="invalid_in_force")
    return said in _TRUE


def require_one_row(header: Header, cells: Sequence[str]) -> None:
    """A row that may hide others is not guessed at: nobody would see what became of the people in it."""
    if any("\n" in cell or "\r" in cell for cell in cells):
        raise InvalidInput(
            "A cell of this row goes over several lines: is a quotation mark closed too late?",
            code="line_break",
        )
    require_no_extra_cells(header, cells)


def require_no_extra_cells(header: Header, cells: Sequence[str]) -> None:
    if header.has_extra_cells(cells):
        raise InvalidInput("This row has a cell under no column's name", code="extra_cells")
