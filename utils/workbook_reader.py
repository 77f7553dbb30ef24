"""An Excel workbook as CSV, in a process of its own: `python -m utils.workbook_reader`, stdin to stdout.

The first line of stderr holds the names of its sheets, in JSON.

The library unpacks a whole sheet, also the empty cells before a stray one in column XFD, and every repetition of a long
text: a small file may ask for more memory than the machine has. Here it meets a limit and takes nothing with it, and
callbacks keep the web process's interpreter.
"""

from __future__ import annotations

import csv
import io
import json
import resource
import sys
from collections.abc import Iterator
from datetime import datetime, time
from decimal import Decimal
from typing import Any

MEMORY_BYTES = 1024 * 1024 * 1024
PROCESSOR_SECONDS = 60
LARGEST_CSV_BYTES = 512 * 1024 * 1024
# Exit codes. Whatever else it ends with was a limit.
UNREADABLE, NO_SUCH_SHEET = 3, 4
_LARGEST_WHOLE = 1e15


def main(sheet: str | None) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_CSV_BYTES, LARGEST_CSV_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        workbook = CalamineWorkbook.from_filelike(sys.stdin.buffer)
        names = workbook.sheet_names
        sys.stderr.write(json.dumps(names) + "\n")
        if sheet is not None and sheet not in names:
            return NO_SUCH_SHEET
        found = workbook.get_sheet_by_index(0) if sheet is None else workbook.get_sheet_by_name(sheet)
        _write(found.iter_rows())
    except CalamineError:
        return UNREADABLE
    return 0


def _write(rows: Iterator[list[Any]]) -> None:
    out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="")
    csv.writer(out, lineterminator="\r\n").writerows(map(_as_typed, cells) for cells in rows)
    out.flush()


def _as_typed(cell: Any) -> str:
    """Numbers without exponents and empty decimals. A cell's own number format is not known here."""
    if type(cell) is str:
        return cell
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float):
        is_whole = cell.is_integer() and abs(cell) < _LARGEST_WHOLE
        return str(int(cell)) if is_whole else format(Decimal(repr(cell)), "f")
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d}" if cell.time() == time() else f"{cell:%Y-%m-%d %H:%M}"
    return str(cell)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
