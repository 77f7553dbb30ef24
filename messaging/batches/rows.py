"""The rows of a file made into texts to numbers: read, refused with a reason, or known already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

from messaging.batches.placeholders import Placeholders
from messaging.messages.warnings import DOUBTFUL_NUMBER, Warnings, left_over, warn_of_left_over
from messaging.messages.way_out import WayOut
from utils.csv_files import Header, InvalidFile
from utils.errors import InvalidInput
from utils.phone_cleaning import EMPTY_SIGNS, is_empty_cell
from utils.phone_metadata import region_if_plainly_valid
from utils.phone_numbers import read_phone
from utils.references import read_reference
from utils.segments import measure
from utils.texts import LONGEST_TEXT, as_text, compose, is_blank, is_text

LONGEST_VALUE_KEPT = 100
# Of a row as JSON: ten thousand of them are 40 MB at most.
LONGEST_CELLS_KEPT = 4000
# `json.dumps` makes an encoder for each call that is not all default.
_as_json = json.JSONEncoder(ensure_ascii=False).encode
DUPLICATE = "duplicate"
NO_WAY_OUT = WayOut()
# The column whose cells are the caller's own ids, beside being a placeholder like any other.
REFERENCE = "reference"
SAME_AS_BEFORE = "The same number stands on an earlier line with the same text"
_SKIPPED_AT_ONCE = 1000
# Of one file, and as many duplicates; more are counted.
MOST_REFUSED_KEPT = 10_000
ROWS_BEFORE_JUDGING = 10_000
MOST_REFUSED_SHARE = 0.95


class TakenRow(NamedTuple):
    recipient: str
    text: str
    parts: int
    # Of a file, and in the words of `RefusedRow`.
    line: int | None = None
    reference: str | None = None
    cells: str | None = None


class RefusedRow(NamedTuple):
    """`line`: where the row begins in the file. `value`: its phone cell. `cells`: all of them, as JSON."""

    line: int
    value: str
    code: str
    reason: str
    cells: str | None = None


@dataclass(slots=True)
class Chunk:
    """`rows`: how many rows of the file it is made of. `refused_beyond`: refused ones that are only counted.

    `duplicates` counts all of them, `duplicate_rows` has those that are kept.
    """

    rows: int = 0
    taken: list[TakenRow] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    refused_beyond: int = 0
    duplicates: int = 0
    duplicate_rows: list[RefusedRow] = field(default_factory=list)

    @property
    def refused_count(self) -> int:
        return len(self.refused) + self.refused_beyond


class RowRefusal(InvalidInput):
    """This row is not sent; the others are: empty_value, missing_value, extra_cells, text_too_long …"""

    code = "refused_row"


class BatchRows:
    """One pass over a file. Raises InvalidFile at once where the text names a column that the file lacks.

    `default_region`: for numbers without a country code. `warnings`: of the rows taken so far. `keeps_cells`: for an
    importer, whose downloads show them. `way_out`: of the batch's sender.
    """

    def __init__(
        self,
        template: str,
        header: Header,
        default_region: str | None,
        way_out: WayOut = NO_WAY_OUT,
        *,
        keeps_cells: bool = False,
    ) -> None:
        placeholders = Placeholders(template)
        self._way_out = way_out
        self._format = placeholders.format
        self._names = placeholders.columns
        self._defaults = placeholders.defaults
        # Said once for the file, not again for each row.
        self._left_over = {one for literal in placeholders.literals for one in left_over(literal)}
        self._columns = [header.index(name) for name in placeholders.columns]
        self._phone = header.phone
        self._reference = header.index(REFERENCE) if REFERENCE in header.names else None
        # Of a file that has only numbers they would say nothing more.
        self._keeps_cells = keeps_cells and len(header.names) > 1
        self._header = header
        self._default_region = default_region
        # Some 90 MB for a million: as numbers, not as texts.
        self._seen: set[int] = set()
        self.warnings = Warnings()
        warn_of_left_over(self.warnings, sorted(self._left_over))
        self._rows = 0
        self._refused_count = 0
        self._duplicate_count = 0
        self._fixed = None if self._columns else self._measured(placeholders.fill(()))

    def chunks(self, rows: Iterator[tuple[int, list[str]]], size: int) -> Iterator[Chunk]:
        """All rows, up to `size` of them at a time."""
        while chunk := self.read(rows, size):
            yield chunk

    def skip(self, rows: Iterator[tuple[int, list[str]]], count: int) -> int:
        """Reads `count` rows again that are dealt with, to know their numbers; how many there were."""
        done = 0
        while done < count and (chunk := self.read(rows, min(count - done, _SKIPPED_AT_ONCE))):
            done += chunk.rows
        return done

    def read(self, rows: Iterator[tuple[int, list[str]]], size: int) -> Chunk | None:
        """The next rows, up to `size` of them; None where there are no more.

        Raises InvalidFile where nearly all that came so far was refused: it is no list of phones.
        """
        self._require_some_sense()
        chunk = Chunk()
        for line, cells in islice(rows, size):
            chunk.rows += 1
            try:
                self._add(chunk, line, cells)
            except InvalidInput as error:
                self._refuse(chunk, line, cells, error)
        self._rows += chunk.rows
        return chunk if chunk.rows else None

    def _refuse(self, chunk: Chunk, line: int, cells: list[str], error: InvalidInput) -> None:
        """4 MB of `x` on lines of their own would become 175 MB of refused rows."""
        self._refused_count += 1
        if self._refused_count > MOST_REFUSED_KEPT:
            chunk.refused_beyond += 1
        else:
            chunk.refused.append(self._kept(line, cells, error.code, error.message))

    def _require_some_sense(self) -> None:
        if self._rows >= ROWS_BEFORE_JUDGING and self._refused_count > self._rows * MOST_REFUSED_SHARE:
            raise InvalidFile(
                f"Of the first {self._rows} rows {self._refused_count} were refused:"
                " is the column `phone` the right one?",
                code="nearly_all_refused",
                field="file",
            )

    def _add(self, chunk: Chunk, line: int, cells: list[str]) -> None:
        phone, doubt = self._read_phone(cells)
        text, parts = self._fixed or self._fill(cells)
        reference = self._read_reference(cells)
        key = number_key(phone) if self._fixed else _text_key(phone, text)
        if is_new(key, self._seen):
            kept = _as_kept(cells) if self._keeps_cells else None
            chunk.taken.append(TakenRow(phone, text, parts, line, reference, kept))
            if doubt:
                self.warnings.add(DOUBTFUL_NUMBER, doubt, line=line, to=phone)
            if not self._fixed:
                found = [one for one in left_over(text) if one not in self._left_over]
                warn_of_left_over(self.warnings, found, line=line, to=phone)
        else:
            self._note_duplicate(chunk, line, cells)

    def _note_duplicate(self, chunk: Chunk, line: int, cells: list[str]) -> None:
        chunk.duplicates += 1
        self._duplicate_count += 1
        if self._duplicate_count <= MOST_REFUSED_KEPT:
            chunk.duplicate_rows.append(self._kept(line, cells, DUPLICATE, SAME_AS_BEFORE))

    def _read_phone(self, cells: list[str]) -> tuple[str, str | None]:
        if self._header.has_extra_cells(cells):
            raise RowRefusal(
                "This row has a cell under no column's name: does a text hold an unquoted separator?",
                code="extra_cells",
            )
        phone = cells[self._phone] if len(cells) > self._phone else ""
        if region_if_plainly_valid(phone):
            return phone, None
        return read_phone(phone, self._default_region)[:2]

    def _read_reference(self, cells: list[str]) -> str | None:
        if self._reference is None or self._reference >= len(cells):
            return None
        return read_reference(cells[self._reference])

    def _fill(self, cells: list[str]) -> tuple[str, int]:
        try:
            values = [cells[column].strip() for column in self._columns]
        except IndexError:
            values = [cells[column].strip() if column < len(cells) else "" for column in self._columns]
        if not all(values) or not EMPTY_SIGNS.isdisjoint(values):
            values = self._with_defaults(values)
        return self._measured(self._format % tuple(values))

    def _with_defaults(self, values: list[str]) -> list[str]:
        """Raises RowRefusal where an empty cell has none."""
        filled = []
        for name, value, default in zip(self._names, values, self._defaults, strict=True):
            if not is_empty_cell(value):
                filled.append(value)
            elif default is not None:
                filled.append(default)
            else:
                sign = f" (it holds {value!r})" if value else ""
                raise RowRefusal(f"The column {name!r} is empty here{sign}", code="empty_value")
        return filled

    def _measured(self, text: str) -> tuple[str, int]:
        text = compose(text)
        if is_blank(text):
            raise RowRefusal("The text is empty once it is filled in", code="empty_message")
        if len(text) > LONGEST_TEXT:
            sentence = f"The text has {len(text)} characters; at most {LONGEST_TEXT} can be sent"
            raise RowRefusal(sentence, code="text_too_long", field="text")
        if "\0" in text:
            raise RowRefusal("The text holds a character that no phone can show", code="invalid_text")
        text = self._way_out.composed(text)
        return text, measure(text).parts

    def _kept(self, line: int, cells: list[str], code: str, reason: str) -> RefusedRow:
        value = cells[self._phone] if len(cells) > self._phone else ""
        return RefusedRow(line, as_text(value[:LONGEST_VALUE_KEPT]), code, reason, _as_kept(cells))


def _as_kept(cells: list[str]) -> str | None:
    if sum(map(len, cells)) > LONGEST_CELLS_KEPT:
        return None
    # Nearly always all of them can be kept as they are: looked at together.
    if not is_text("".join(cells)):
        cells = [as_text(cell) for cell in cells]
    return _as_json(cells)


def is_new(key: int, seen: set[int]) -> bool:
    """Whether it is the first of its kind; `seen` remembers it."""
    if key in seen:
        return False
    seen.add(key)
    return True


def number_key(phone: str) -> int:
    """Of an E.164 number, where all get the same text."""
    return int(phone[1:])


def _text_key(phone: str, text: str) -> int:
    """Of a number and its text: a parent of two children gets both. 128 bits do not meet by chance."""
    return int.from_bytes(blake2b(f"{phone}\0{text}".encode(), digest_size=16).digest())
