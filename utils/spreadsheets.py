"""CSV for people's spreadsheets: no cell is taken for a formula, and UTF-8 for nothing else."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from utils.csv_files import BYTE_ORDER_MARK

# `=`, `+`, `-`, `@` begin a formula, also in their full-width form; a leading tab or line end is dropped first.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_E164 = re.compile(r"\+[0-9]+")


def harmless_cell(text: str) -> str:
    """The text, behind an apostrophe where a spreadsheet would compute it.

    A phone number keeps its plus as it is: as a formula it is only a number, and programs need it unmarked.
    """
    return f"'{text}" if _FORMULA.match(text) and not _E164.fullmatch(text) else text


def without_mark(text: str) -> str:
    """What `harmless_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def csv_lines(names: Sequence[str], windows: Iterable[Sequence[Sequence[Any]]]) -> Iterator[str]:
    """The head and the rows of the first window, then those of each further one: no more is in memory."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    buffer.write(BYTE_ORDER_MARK)
    writer.writerow([harmless_cell(name) for name in names])
    for rows in windows:
        writer.writerows([_cell(value) for value in row] for row in rows)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _cell(value: Any) -> Any:
    return harmless_cell(value) if isinstance(value, str) else value
