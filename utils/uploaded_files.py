"""What people upload instead of CSV in UTF-8, made into it: Excel, UTF-16, Windows-1252 where it is plain.

A file is converted before it is stored, so that everything behind knows one format.
"""

from __future__ import annotations

import codecs
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, BinaryIO, Final, cast

from utils.csv_files import LONGEST_ROW, MOST_NAMED_COLUMNS, InvalidFile
from utils.setting_types import REPOSITORY
from utils.workbook_reader import NO_SUCH_SHEET, UNREADABLE

PIECE_BYTES = 256 * 1024
# Unpacked, as the file itself says; 100,000 short rows have some 12 MiB.
LARGEST_WORKBOOK_BYTES = 64 * 1024 * 1024
TOO_LARGE: Final = (
    "The workbook is too large (64 MiB unpacked), or has a cell far from all others: save it as CSV UTF-8"
)
_WORKBOOK, _OLD_WORKBOOK = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Accented letters of western languages, and what word processors put for quotes, dashes and the space.
_LETTERS = "àáâãäåæçèéêëìíîïñòóôõöøùúûüÿœšžÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŸŒß".encode("cp1252")
_MARKS = "‘’“”–—…€°«»\u00a0".encode("cp1252")
_FOREIGN = re.compile(rb"[^\x00-\x7f" + re.escape(_LETTERS + _MARKS) + rb"]")
# A letter of a western word stands beside a plain one, and never three accented ones together.
_ALONE = re.compile(
    rb"(?<![A-Za-z])[" + re.escape(_LETTERS) + rb"]+(?![A-Za-z])|[" + re.escape(_LETTERS) + rb"]{3}"
)
# What is UTF-8 here is UTF-8 damaged elsewhere.
_SOME_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}")


@dataclass(frozen=True, slots=True)
class Opened:
    """`csv`: at its beginning. `sheets`: the names of all that the workbook has; of any other file, none."""

    csv: BinaryIO
    sheets: list[str] = field(default_factory=list)


@contextmanager
def as_csv(file: BinaryIO, sheet: str | None = None) -> Iterator[BinaryIO]:
    """As `opened`, for who asks for no sheets. Raises InvalidFile."""
    with opened(file, sheet) as found:
        yield found.csv


@contextmanager
def opened(file: BinaryIO, sheet: str | None = None) -> Iterator[Opened]:
    """The file itself where it is CSV, or where its encoding cannot be told; else a temporary file.

    `sheet`: of a workbook, its first one if None. Raises InvalidFile.
    """
    file.seek(0)
    beginning = file.read(4)
    file.seek(0)
    if beginning != _WORKBOOK and sheet is not None:
        raise InvalidFile("Only an Excel file has sheets", code="missing_sheet", field="sheet")
    if beginning == _OLD_WORKBOOK:
        sentence = "This is Excel's old format: save it as .xlsx or as CSV UTF-8"
        raise InvalidFile(sentence, code="unknown_format", field="file")
    encoding = "utf-16" if beginning.startswith(_UTF16) else _windows_1252(file)
    file.seek(0)
    if beginning != _WORKBOOK and encoding is None:
        yield Opened(file)
        return
    with TemporaryFile() as found:
        sheets = []
        if beginning == _WORKBOOK:
            sheets = _read_workbook(file, sheet, found)
        else:
            found.writelines(piece.encode() for piece in _decoded(file, encoding or "utf-8"))
        found.seek(0)
        yield Opened(cast(BinaryIO, found), sheets)


def _decoded(file: BinaryIO, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    file.seek(0)
    try:
        while piece := file.read(PIECE_BYTES):
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        sentence = f"The file is no whole {encoding.upper()}: save it as CSV UTF-8 and upload it again"
        raise InvalidFile(sentence, code="not_utf8", field="file") from None


def _windows_1252(file: BinaryIO) -> str | None:
    """None where it is UTF-8, or may be something else."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_utf8 = True
    file.seek(0)
    try:
        while piece := file.read(PIECE_BYTES):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        is_utf8 = False
    file.seek(0)
    if is_utf8:
        return None
    while line := file.readline(LONGEST_ROW):
        if not line.isascii() and (_FOREIGN.search(line) or _ALONE.search(line) or _SOME_UTF8.search(line)):
            return None
    return "cp1252"


def _read_workbook(file: BinaryIO, sheet: str | None, found: IO[bytes]) -> list[str]:
    """The names of its sheets. Raises InvalidFile."""
    _require_small(file)
    # A caller's stream may have no descriptor that another process can read.
    with TemporaryFile() as workbook:
        shutil.copyfileobj(file, workbook)
        workbook.seek(0)
        command = [sys.executable, "-m", "utils.workbook_reader", *([] if sheet is None else [sheet])]
        done = subprocess.run(  # noqa: S603 (no shell, and `sheet` is only compared)
            command, cwd=REPOSITORY, stdin=workbook, stdout=found, stderr=subprocess.PIPE, check=False
        )
    if done.returncode == NO_SUCH_SHEET:
        raise _no_such_sheet(sheet, _sheets_of(done.stderr))
    if done.returncode == UNREADABLE:
        raise _unreadable()
    if done.returncode:
        raise InvalidFile(TOO_LARGE, code="too_large", field="file")
    return _sheets_of(done.stderr)


def _sheets_of(said: bytes) -> list[str]:
    return cast("list[str]", json.loads(said.splitlines()[0]))


def _no_such_sheet(sheet: str | None, names: list[str]) -> InvalidFile:
    told = names[:MOST_NAMED_COLUMNS]
    sentence = f"The workbook has no sheet {sheet!r}, only: {', '.join(told)}"
    return InvalidFile(sentence, code="missing_sheet", field="sheet", details={"sheets": told})


def _require_small(file: BinaryIO) -> None:
    """A few kilobytes can unpack to gigabytes. Raises InvalidFile."""
    try:
        with zipfile.ZipFile(file) as packed:
            size = sum(one.file_size for one in packed.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise _unreadable() from None
    if size > LARGEST_WORKBOOK_BYTES:
        raise InvalidFile(TOO_LARGE, code="too_large", field="file")
    file.seek(0)


def _unreadable() -> InvalidFile:
    sentence = "The workbook cannot be read: save it again as .xlsx, or as CSV UTF-8"
    return InvalidFile(sentence, code="unreadable_workbook", field="file")
