"""The rows of a file made into texts to numbers: read, refused with a reason, or known already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from messaging.csv_reading import Header
from messaging.placeholders import Placeholders
from messaging.seen_numbers import SeenNumbers
from messaging.sends import LONGEST_TEXT
from utils.errors import InvalidInput, InvalidPhone
from utils.phone_metadata import region_if_plainly_valid
from utils.phone_numbers import read_phone
from utils.segments import measure

LONGEST_VALUE_KEPT = 100
_SKIPPED_AT_ONCE = 1000


class TakenRow(NamedTuple):
    recipient: str
    text: str
    parts: int


class RefusedRow(NamedTuple):
    """`line`: where the row begins in the file. `value`: what stands in its phone column."""

    line: int
    value: str
    code: str
    reason: str


@dataclass(slots=True)
class Chunk:
    """`rows`: how many rows of the file it is made of."""

    rows: int = 0
    taken: list[TakenRow] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    duplicates: int = 0


class RowRefusal(InvalidInput):
    """This row is not sent; the others are: empty_value, missing_value, extra_cells, text_too_long …"""

    code = "refused_row"


class BatchRows:
    """One pass over a file. Raises InvalidFile at once where the text names a column that the file lacks.

    `default_region`: for numbers without a country code.
    """

    def __init__(self, template: str, header: Header, default_region: str | None) -> None:
        placeholders = Placeholders(template)
        self._format = placeholders.format
        self._names = placeholders.columns
        self._columns = [header.index(name) for name in placeholders.columns]
        self._phone = header.phone
        self._width = len(header.names)
        self._default_region = default_region
        self._seen = SeenNumbers()
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
        """The next rows, up to `size` of them; None where there are no more."""
        chunk = Chunk()
        for line, cells in islice(rows, size):
            chunk.rows += 1
            try:
                self._add(chunk, cells)
            except InvalidInput as error:
                chunk.refused.append(self._refused(line, cells, error))
        return chunk if chunk.rows else None

    def _add(self, chunk: Chunk, cells: list[str]) -> None:
        phone = self._read_phone(cells)
        text, parts = self._fixed or self._fill(cells)
        if self._seen.add(phone):
            chunk.taken.append(TakenRow(phone, text, parts))
        else:
            chunk.duplicates += 1

    def _read_phone(self, cells: list[str]) -> str:
        if len(cells) > self._width and any(cells[self._width :]):
            raise RowRefusal(
                "This row has more cells than the header: does a text hold an unquoted separator?",
                code="extra_cells",
            )
        phone = cells[self._phone] if len(cells) > self._phone else ""
        if region_if_plainly_valid(phone):
            return phone
        if not phone.strip():
            raise InvalidPhone("The phone column is empty here", code="missing_phone")
        return read_phone(phone, self._default_region).e164

    def _fill(self, cells: list[str]) -> tuple[str, int]:
        try:
            values = [cells[column].strip() for column in self._columns]
        except IndexError:
            raise RowRefusal(
                "This row ends before the columns that the text names", code="empty_value"
            ) from None
        if not all(values):
            name = self._names[values.index("")]
            raise RowRefusal(f"The column {name!r} is empty here", code="empty_value")
        return self._measured(self._format % tuple(values))

    def _measured(self, text: str) -> tuple[str, int]:
        if len(text) > LONGEST_TEXT:
            sentence = f"The text has {len(text)} characters; at most {LONGEST_TEXT} can be sent"
            raise RowRefusal(sentence, code="text_too_long", field="text")
        if "\0" in text:
            raise RowRefusal("The text holds a character that no phone can show", code="invalid_text")
        return text, measure(text).parts

    def _refused(self, line: int, cells: list[str], error: InvalidInput) -> RefusedRow:
        value = cells[self._phone] if len(cells) > self._phone else ""
        kept = value[:LONGEST_VALUE_KEPT].replace("\0", "\N{REPLACEMENT CHARACTER}")
        return RefusedRow(line, kept, error.code, error.message)
