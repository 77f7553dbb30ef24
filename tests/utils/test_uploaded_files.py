"""Excel files, UTF-16 and Windows-1252, made into CSV in UTF-8."""

from __future__ import annotations

import csv
import io

import pytest

from tests.support.workbooks import DATE, workbook
from utils import uploaded_files
from utils.csv_files import InvalidFile
from utils.uploaded_files import as_csv, opened

PEOPLE = "phone,name\r\n+254711000001,Élodie “Lolo” Gbédji\r\n+254711000002,François – Ñandú\r\n"


def rows_of(raw: bytes, sheet: str | None = None) -> list[list[str]]:
    with as_csv(io.BytesIO(raw), sheet) as file:
        text = file.read().decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline="")))


def code_of(raw: bytes, sheet: str | None = None) -> str:
    with pytest.raises(InvalidFile) as caught:
        rows_of(raw, sheet)
    return caught.value.code


def test_numbers_of_a_workbook_are_as_a_person_typed_them() -> None:
    raw = workbook(
        {
            "People": [
                ["phone", "amount", "due"],
                [254711000001.0, 1500.5, (DATE, 46350.0)],
                ["0711000002", 1e-7, (DATE, 46350.5)],
                [2.54711e11, 5000, 'a, "b"\nc'],
            ]
        }
    )
    assert rows_of(raw) == [
        ["phone", "amount", "due"],
        ["254711000001", "1500.5", "2026-11-24"],
        ["0711000002", "0.0000001", "2026-11-24 12:00"],
        ["254711000000", "5000", 'a, "b"\nc'],
    ]


def test_the_first_sheet_is_read_or_the_one_that_is_named() -> None:
    raw = workbook({"One": [["phone"], ["1"]], "Two": [["phone"], ["2"]]})
    assert (rows_of(raw)[1], rows_of(raw, "Two")[1]) == (["1"], ["2"])
    with pytest.raises(InvalidFile, match="One, Two") as caught:
        rows_of(raw, "Three")
    assert caught.value.code == "missing_sheet"
    assert caught.value.details == {"sheets": ["One", "Two"]}
    assert code_of(b"phone\n1\n", "One") == "missing_sheet"


def test_a_workbook_names_its_sheets_and_another_file_has_none() -> None:
    raw = workbook({"Élèves, 2026": [["phone"], ["1"]], "Two": [["phone"], ["2"]]})
    with opened(io.BytesIO(raw), "Two") as found:
        assert found.sheets == ["Élèves, 2026", "Two"]
    for plain in (b"phone\n1\n", "phone\n1\n".encode("utf-16")):
        with opened(io.BytesIO(plain)) as found:
            assert found.sheets == []


def test_a_workbook_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = workbook({"One": [["phone"], ["1"]]})
    assert code_of(whole[:200]) == "unreadable_workbook"
    assert code_of(b"PK\x03\x04 is no workbook") == "unreadable_workbook"
    assert code_of(b"\xd0\xcf\x11\xe0 of 1997") == "unknown_format"
    monkeypatch.setattr(uploaded_files, "LARGEST_WORKBOOK_BYTES", 1000)
    assert code_of(whole) == "too_large"


def test_a_workbook_that_asks_for_more_memory_than_there_is_takes_nothing_with_it() -> None:
    """One stray cell in the last corner made the library unpack seventeen thousand million empty ones."""
    raw = workbook({"One": [["phone"], ["1"]]}, more='<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>')
    assert code_of(raw) == "too_large"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_text_is_read_in_the_encodings_of_spreadsheets(encoding: str) -> None:
    assert rows_of(PEOPLE.encode(encoding))[1:] == [
        ["+254711000001", "Élodie “Lolo” Gbédji"],
        ["+254711000002", "François – Ñandú"],
    ]


@pytest.mark.parametrize(
    "raw",
    [
        PEOPLE.replace("“", "").replace("”", "").encode("mac-roman"),
        "phone,name\n1,محمد\n".encode("cp1256"),
        "phone,name\n1,Алексей\n".encode("cp1251"),
        "phone,name\n1,Wałęsa\n".encode("cp1250"),
        "phone,name\n1,José\n".encode() + b"2,Jos\xe9\n",
        b"phone,name\n1,\x81\n",
    ],
)
def test_what_may_be_another_encoding_is_left_for_a_refusal(raw: bytes) -> None:
    with as_csv(io.BytesIO(raw)) as file:
        assert file.read() == raw


def test_half_a_file_in_utf16_is_refused() -> None:
    assert code_of(PEOPLE.encode("utf-16")[:-1]) == "not_utf8"
