"""CSV as spreadsheets write it: UTF-8 with or without BOM, commas, semicolons or tabs, line ends inside quotes."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from utils.errors import InvalidInput

PHONE = "phone"
# Before what people download: without it Excel takes UTF-8 for another encoding.
BYTE_ORDER_MARK = "\ufeff"
# What people write above a column of phone numbers, as `fold` writes it.
PHONE_NAMES = frozenset(
    {
        "phone",
        "phone number",
        "phone no",
        "mobile",
        "mobile number",
        "mobile phone",
        "msisdn",
        "tel",
        "telephone",
    }
    | {"telephone number", "number", "cell", "cell phone", "cellphone"}
)
# The commonest first: a header with the one column `phone` decides nothing.
DELIMITERS = (",", ";", "\t")
LONGEST_HEADER_BYTES = 200 * 1024
# Of a wide file, in an error.
MOST_NAMED_COLUMNS = 30
LONGEST_CELL = 100_000
# One line of 250 MB of commas would be read whole before any other limit: 2.5 GB in memory.
LONGEST_ROW = LONGEST_HEADER_BYTES
# The first line that Excel reads and does not show.
_SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?\r?[\n\r]', re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\s_-]+")
_LINE_END = re.compile(r"[\r\n]")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

csv.field_size_limit(LONGEST_CELL)


class InvalidFile(InvalidInput):
    """The file as a whole cannot be read: not_utf8, missing_phone_column, duplicate_column, unreadable_csv …"""

    code = "invalid_file"
    sentence = "The file cannot be read as CSV"


@dataclass(frozen=True, slots=True)
class Header:
    """`names`: the columns, folded for comparison, in order. `titles`: as they are written. `phone`: where the number
    stands. `lines_before`: how many lines stand above it."""

    delimiter: str
    names: list[str]
    titles: list[str]
    phone: int
    lines_before: int = 0
    # The places that have no name. Those before the first named column are the index of a table, and do not count.
    nameless: Sequence[int] = ()

    def has_extra_cells(self, cells: Sequence[str]) -> bool:
        """Whether a cell stands where no column has a name: an unquoted separator has cut a cell in two."""
        width = len(self.names)
        if len(cells) > width and any(map(str.strip, cells[width:])):
            return True
        return any(place < len(cells) and cells[place].strip() for place in self.nameless)

    def index(self, name: str) -> int:
        """Of a column named in a text. Raises InvalidFile."""
        places = [place for place, known in enumerate(self.names) if known == name]
        if not places:
            columns = [known for known in self.names if known][:MOST_NAMED_COLUMNS]
            raise InvalidFile(
                f"The text names the column {{{{{name}}}}}, but the file has only: {', '.join(columns)}",
                code="missing_column",
                field="text",
                details={"column": name, "columns": columns},
            )
        if len(places) > 1:
            raise InvalidFile(
                f"The file has the column {name!r} twice", code="duplicate_column", field="file"
            )
        return places[0]


def read_header(beginning: bytes, phone_column: str | None = None) -> Header:
    """From the first bytes of a file. `phone_column`: what it calls the numbers. Raises InvalidFile."""
    text = _first_bytes_as_text(beginning[:LONGEST_HEADER_BYTES])
    if len(beginning) >= LONGEST_HEADER_BYTES and not _LINE_END.search(text):
        raise InvalidFile(
            f"The first line has more than {LONGEST_HEADER_BYTES // 1024} KiB: it has to name the columns",
            code="header_too_long",
            field="file",
        )
    wanted = PHONE_NAMES if phone_column is None else frozenset({fold(phone_column)})
    said = _SEPARATOR_LINE.match(text)
    if said:
        text = text[said.end() :]
    rows = [(one, _first_row(text, one)) for one in (said[1] if said else DELIMITERS)]
    found = [_find_phone(one, cells, wanted, lines_before=int(bool(said))) for one, cells in rows]
    fitting = [header for header in found if header is not None]
    if not fitting:
        raise _no_phone_column(phone_column, max((cells for _, cells in rows), key=len))
    # `phone;a,b` has its number behind either mark: the one that makes more columns separates them.
    best = max(fitting, key=lambda header: len(header.names))
    _require_one_phone_column(best, wanted)
    return best


def header_of(file: BinaryIO, phone_column: str | None = None) -> Header:
    """As `read_header`. `file`: at its beginning, before and after."""
    header = read_header(file.read(LONGEST_HEADER_BYTES), phone_column)
    file.seek(0)
    return header


def _no_phone_column(phone_column: str | None, columns: Sequence[str]) -> InvalidFile:
    if phone_column is not None:
        sentence = f"The first line names no column {phone_column!r}"
    else:
        sentence = (
            "The first line has to name the columns, one of them `phone` (or `mobile`, `msisdn`, `tel` …);"
            " `phone_column` names another"
        )
    known = [one for one in columns if one][:MOST_NAMED_COLUMNS]
    return InvalidFile(sentence, code="missing_phone_column", field="file", details={"columns": known})


def _require_one_phone_column(header: Header, wanted: Container[str]) -> None:
    places = [place for place, name in enumerate(header.names) if name in wanted]
    if len(places) < 2:
        return
    titles = [header.titles[place] for place in places]
    if len({header.names[place] for place in places}) == 1:
        sentence = f"The file has the column {header.names[places[0]]!r} twice"
        raise InvalidFile(sentence, code="duplicate_column", field="file")
    raise InvalidFile(
        f"More than one column may hold the phone numbers: {', '.join(titles[:MOST_NAMED_COLUMNS])}."
        " `phone_column` says which",
        code="several_phone_columns",
        field="file",
        details={"columns": titles[:MOST_NAMED_COLUMNS]},
    )


def read_rows(
    file: BinaryIO, header: Header, decoding_errors: str = "strict"
) -> Iterator[tuple[int, list[str]]]:
    """The records behind the header with the number of the line each begins on; blank ones are left out.

    `decoding_errors`: what is done with bytes that are no UTF-8, in Python's words.
    Raises InvalidFile where the rest cannot be told apart: a quote that is never closed, bytes that are no UTF-8.
    """
    # newline="": line ends inside quotes stay as they are, those outside are the reader's business.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors=decoding_errors, newline="")
    lines = _Lines(text)
    # strict: else a quote that is never closed, or closed by the next one rows below, takes what stands between
    # into one cell, and one recipient's text holds the rows of others.
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True)
    begins_on = 1
    try:
        for _ in range(header.lines_before):
            next(lines, None)
        next(reader, None)
        begins_on = lines.begin_row() + 1
        for cells in reader:
            if cells and (cells[0].strip() or not _is_blank(cells)):
                yield begins_on, cells
            begins_on = lines.begin_row() + 1
    except csv.Error as error:
        raise InvalidFile(
            f"Line {begins_on} cannot be read ({error}): is a quotation mark never closed?",
            code="unreadable_csv",
            field="file",
        ) from None
    except UnicodeDecodeError as error:
        raise not_utf8(error) from None
    finally:
        # Only the caller closes what it opened.
        if not text.closed:
            text.detach()


class _Lines:
    """The lines of a file for a CSV reader, which asks for more of them while a row goes on inside quotes."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._readline = text.readline
        self._number = 0
        self._room = LONGEST_ROW

    def begin_row(self) -> int:
        """How many lines have been read."""
        self._room = LONGEST_ROW
        return self._number

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._readline(self._room + 1)
        self._room -= len(line)
        if self._room < 0:
            raise InvalidFile(
                f"The row on line {self._number + 1} has more than {LONGEST_ROW // 1024} KiB:"
                " is a line end or a quotation mark missing?",
                code="row_too_long",
                field="file",
            )
        if not line:
            raise StopIteration
        self._number += 1
        return line


def check_encoding(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same pieces, once they are known to be UTF-8. Raises InvalidFile."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    for piece in pieces:
        try:
            decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise not_utf8(error, line + error.object[: error.start].count(b"\n")) from None
        line += piece.count(b"\n")
        yield piece
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise not_utf8(error, line) from None


def not_utf8(error: UnicodeDecodeError, line: int | None = None) -> InvalidFile:
    where = "" if line is None else f" (line {line})"
    return InvalidFile(
        f"The file is not UTF-8{where}: save it as CSV UTF-8 and upload it again",
        code="not_utf8",
        field="file",
        details={} if line is None else {"line": line, "byte": error.object[error.start]},
    )


def _is_blank(cells: Sequence[str]) -> bool:
    """A line of separators only, as spreadsheets leave below a table."""
    return not "".join(cells).strip()


def _first_bytes_as_text(beginning: bytes) -> str:
    if beginning.startswith(_UTF16):
        raise InvalidFile(
            "The file is UTF-16 (a spreadsheet's “Unicode text”): save it as CSV UTF-8 instead",
            code="not_utf8",
            field="file",
        )
    try:
        # A character may be cut where the beginning ends.
        return codecs.getincrementaldecoder("utf-8-sig")().decode(beginning)
    except UnicodeDecodeError as error:
        raise not_utf8(error, 1 + error.object[: error.start].count(b"\n")) from None


def _first_row(text: str, delimiter: str) -> list[str]:
    try:
        return [
            one.strip() for one in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        ]
    except csv.Error:
        return []


def _find_phone(
    delimiter: str, cells: list[str], wanted: Container[str], *, lines_before: int
) -> Header | None:
    names = [fold(cell) for cell in cells]
    phone = next((place for place, name in enumerate(names) if name in wanted), None)
    if phone is None:
        return None
    first = next(place for place, name in enumerate(names) if name)
    nameless = [place for place, name in enumerate(names) if not name and place > first]
    return Header(delimiter, names, cells, phone, lines_before, nameless)


def fold(name: str) -> str:
    """How names of columns are compared: people write `First_Name` above a column and `{{first name}}` in a text."""
    return _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFC", name)).strip().casefold()
