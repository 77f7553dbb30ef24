from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.batches.rows import BatchRows, Chunk
from utils.csv_files import DELIMITERS, InvalidFile, check_encoding, read_header, read_rows

HEADER = "phone,name"
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ROWS = st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=20)


def rows_of(content: str | bytes) -> list[tuple[int, list[str]]]:
    raw = content.encode() if isinstance(content, str) else content
    return list(read_rows(io.BytesIO(raw), read_header(raw)))


def chunk_of(content: str, text: str = "Dear {{name}}", region: str | None = None) -> Chunk:
    header = read_header(content.encode())
    reader = BatchRows(text, header, region)
    return reader.read(read_rows(io.BytesIO(content.encode()), header), 1000) or Chunk()


def refused_of(content: str, text: str = "Dear {{name}}") -> list[tuple[int, str, str]]:
    return [(row.line, row.value, row.code) for row in chunk_of(content, text).refused]


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidFile) as caught:
        call()
    return caught.value.code


@given(
    rows=ROWS, delimiter=st.sampled_from(DELIMITERS), end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans()
)
def test_what_a_spreadsheet_writes_is_read_as_it_was(
    rows: list[list[str]], delimiter: str, end: str, bom: bool
) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["Phone", "first name", "note"], *rows])
    content = written.getvalue().encode("utf-8-sig" if bom else "utf-8")
    header = read_header(content)
    assert (header.delimiter, header.names, header.phone) == (delimiter, ["phone", "first name", "note"], 0)
    assert [cells for _, cells in rows_of(content)] == [row for row in rows if "".join(row).strip()]


@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_with_a_reason(content: bytes) -> None:
    with suppress(InvalidFile):
        rows_of(b"phone,name\n" + content)


@given(pieces=st.lists(st.binary(max_size=8), max_size=12))
def test_a_file_is_utf8_wherever_its_pieces_are_cut(pieces: list[bytes]) -> None:
    def is_utf8(content: bytes) -> bool:
        try:
            content.decode()
        except UnicodeDecodeError:
            return False
        return True

    try:
        given_back = list(check_encoding(pieces))
    except InvalidFile:
        assert not is_utf8(b"".join(pieces))
    else:
        assert given_back == pieces
        assert is_utf8(b"".join(pieces))


def test_the_separator_is_the_one_that_makes_a_phone_column() -> None:
    assert read_header(b"phone;a,b\n1,2;3").delimiter == ";"
    assert read_header(b"name\tPHONE\n").delimiter == "\t"
    assert read_header(b"phone\n1;2\n").delimiter == ","


@pytest.mark.parametrize(
    "title",
    [
        "phone",
        "Phone Number",
        "phone_number",
        "PHONE-NUMBER",
        "Mobile",
        "MSISDN",
        "tel",
        "Telephone",
        "number",
        "Cell",
    ],
)
def test_a_column_of_numbers_is_found_by_what_people_call_it(title: str) -> None:
    assert read_header(f"name,{title}\n".encode()).phone == 1


def test_of_two_columns_that_may_hold_the_numbers_a_person_says_which() -> None:
    content = "Phone_Number,name,Tel\n+254711000001,Amina,0\n"
    with pytest.raises(InvalidFile, match="Phone_Number, Tel") as caught:
        read_header(content.encode())
    assert caught.value.code == "several_phone_columns"
    assert read_header(content.encode(), "phone number").phone == 0
    assert read_header(content.encode(), "TEL").phone == 2
    assert code_of(lambda: read_header(content.encode(), "fax")) == "missing_phone_column"
    assert read_header(b"fax,phone\n", "fax").phone == 0


@pytest.mark.parametrize("named", ["first name", "First_Name", "FIRST-NAME", " first  name "])
@pytest.mark.parametrize("title", ["first name", "First_Name", "FIRST-NAME"])
def test_a_placeholder_finds_its_column_in_any_spelling(title: str, named: str) -> None:
    chunk = chunk_of(f"phone,{title}\n+254711000001,Amina\n", f"Dear {{{{{named}}}}}")
    assert [row.text for row in chunk.taken] == ["Dear Amina"]


def test_an_accent_may_be_written_in_two_ways() -> None:
    chunk = chunk_of("phone,pre\u0301nom\n+254711000001,Amina\n", "Cher {{pr\u00e9nom}}")
    assert [row.text for row in chunk.taken] == ["Cher Amina"]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"'])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_that_names_the_separator_is_obeyed(first: str, end: str) -> None:
    content = end.join([first, "phone;a,b", "+254711000001;x,y", "12;z", ""])
    chunk = chunk_of(content, "{{a,b}}")
    assert [(row.recipient, row.text) for row in chunk.taken] == [("+254711000001", "x,y")]
    assert [row.line for row in chunk.refused] == [4]


def test_a_default_is_filled_in_where_a_cell_is_empty() -> None:
    content = "phone,name,town\n+254711000001,,Kisumu\n+254711000002,NULL\n+254711000003,Amina,Nairobi\n"
    chunk = chunk_of(content, "Dear {{name|friend}} of {{ Town | our town }}")
    assert [row.text for row in chunk.taken] == [
        "Dear friend of Kisumu",
        "Dear friend of our town",
        "Dear Amina of Nairobi",
    ]
    assert chunk_of(content, "Hello{{name|}}").taken[0].text == "Hello"
    assert [row.line for row in chunk_of(content, "{{name|friend}} {{town}}").refused] == [3]
    assert [row.code for row in chunk_of(content, "{{name|}}").refused] == ["empty_message"] * 2
    assert code_of(lambda: chunk_of(content, "{{nmae|friend}}")) == "missing_column"


def test_what_looks_like_a_placeholder_and_is_none_is_told_once() -> None:
    header = read_header(b"phone,name,text\n")
    reader = BatchRows("{name} ((first name)) [Name] <town> {{name}} [1] <3 f(x) {}", header, None)
    assert reader.warnings.counts == {"unfilled_placeholder": 4}
    of_rows = BatchRows("{{text}}", header, None)
    of_rows.read(
        iter([(2, ["+254711000001", "", "Dear {name}"]), (3, ["+254711000002", "", "Dear Amina"])]), 10
    )
    assert [(one["line"], one["code"]) for one in of_rows.warnings.named] == [(2, "unfilled_placeholder")]
    assert "{name}" in of_rows.warnings.named[0]["message"]


def test_a_filled_cell_under_a_nameless_column_is_an_extra_cell() -> None:
    """`1,500` became 1: a person would have been asked for KES 1."""
    chunk = chunk_of(
        "phone,amount,\n+254711000001,1,500\n+254711000002,700,\n+254711000003,900\n", "KES {{amount}}"
    )
    assert [row.text for row in chunk.taken] == ["KES 700", "KES 900"]
    assert [(row.line, row.code) for row in chunk.refused] == [(2, "extra_cells")]
    assert refused_of("phone,,amount\n+254711000001,1,500\n", "{{amount}}") == [
        (2, "+254711000001", "extra_cells")
    ]


def test_an_index_before_the_first_named_column_is_none() -> None:
    chunk = chunk_of(",phone,name\n0,+254711000001,Amina\n1,+254711000002,Brian\n")
    assert [row.text for row in chunk.taken] == ["Dear Amina", "Dear Brian"]


def test_a_line_number_is_the_one_an_editor_shows() -> None:
    rows = rows_of(f'{HEADER}\n1,"two\nlines"\n\n;;\n , \n3,last')
    assert [(line, cells[0]) for line, cells in rows] == [(2, "1"), (5, ";;"), (7, "3")]


def test_old_mac_line_ends_are_line_ends() -> None:
    assert [cells for _, cells in rows_of("phone,name\r1,a\r2,b")] == [["1", "a"], ["2", "b"]]


def test_a_quote_that_is_never_closed_is_named_with_its_line() -> None:
    content = f'{HEADER}\n1,a\n2,"b\n' + "3,c\n" * 50_000
    with pytest.raises(InvalidFile, match="Line 3 ") as caught:
        rows_of(content)
    assert caught.value.code == "unreadable_csv"


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('+254711000001,"Amina\n+254711000002,Brian\n', 2),
        ('+254711000001,Asha\n+254711000002,"Brian\n+254711000003,"Carol"\n', 3),
        ('+254711000001,"Amina" of Kisumu\n', 2),
    ],
    ids=["at the end", "up to the next quote", "closed too early"],
)
def test_a_stray_quote_never_puts_the_rows_of_others_into_a_text(rows: str, line: int) -> None:
    with pytest.raises(InvalidFile, match=f"Line {line} ") as caught:
        chunk_of(f"{HEADER}\n{rows}")
    assert caught.value.code == "unreadable_csv"


def test_a_quote_in_the_middle_of_a_cell_is_a_character() -> None:
    assert [cells for _, cells in rows_of(f'{HEADER}\n1,a 5" pipe\n')] == [["1", 'a 5" pipe']]


def test_a_first_line_without_an_end_is_not_taken_for_a_header() -> None:
    columns = ",".join(f"a_rather_long_name_of_column_{n}" for n in range(10_000))
    assert code_of(lambda: read_header(f"phone,{columns}\n".encode())) == "header_too_long"


def test_ten_thousand_columns_are_read() -> None:
    columns = ",".join(f"column_{n}" for n in range(10_000))
    content = f"phone,{columns}\n+254711000001{',x' * 9_999},last\n"
    assert [row.text for row in chunk_of(content, "{{column_9999}}").taken] == ["last"]
    with pytest.raises(InvalidFile) as caught:
        chunk_of(content, "{{name}}")
    assert len(caught.value.details["columns"]) == 30


def test_a_file_that_is_not_utf8_is_refused_with_the_line() -> None:
    with pytest.raises(InvalidFile, match="line 2"):
        list(check_encoding([b"phone,name\n+254711000001,Jos", b"\xe9\n"]))
    with pytest.raises(InvalidFile, match="line 3"):
        read_header(b"phone,name\n+254711000001,Asha\n+254711000002,Jos\xe9\n")
    assert code_of(lambda: read_header("phone,name".encode("utf-16"))) == "not_utf8"
    assert code_of(lambda: list(check_encoding([b"phone,name\n\xc3"]))) == "not_utf8"


def test_a_header_has_to_name_the_phone_column_once() -> None:
    assert code_of(lambda: read_header(b"who,name\n")) == "missing_phone_column"
    assert code_of(lambda: read_header(b"phone,Phone \n")) == "duplicate_column"


def test_a_text_may_name_only_columns_that_are_there_once() -> None:
    assert code_of(lambda: chunk_of("phone\n1\n")) == "missing_column"
    assert code_of(lambda: chunk_of("phone,name,NAME\n1,a,b\n")) == "duplicate_column"


def test_columns_are_found_whatever_their_case_and_spaces() -> None:
    chunk = chunk_of(
        "phone, First  Name \n+254711000001,Amina\n", "100 % of {{first name}}, {{ FIRST NAME }}"
    )
    assert [row.text for row in chunk.taken] == ["100 % of Amina, Amina"]


def test_a_row_is_refused_by_itself_and_says_why() -> None:
    content = (
        "phone,name\n+254711000001,\n+254711000002\n2.547E+11,a\n,b\n12,c\n"
        "+254711000003,Smith, John\n+254711000004,d,,\n"
    )
    assert refused_of(content) == [
        (2, "+254711000001", "empty_value"),
        (3, "+254711000002", "empty_value"),
        (4, "2.547E+11", "excel_notation"),
        (5, "", "missing_phone"),
        (6, "12", "invalid_phone"),
        (7, "+254711000003", "extra_cells"),
    ]
    assert [row.recipient for row in chunk_of(content).taken] == ["+254711000004"]


def test_a_filled_text_can_be_too_long_or_unshowable() -> None:
    rows = f"+254711000001,{'x' * 1600}\n+254711000002,a\0b\n"
    codes = [code for _, _, code in refused_of(f"phone,name\n{rows}")]
    assert codes == ["text_too_long", "invalid_text"]


def test_numbers_are_read_as_files_hold_them() -> None:
    content = "phone\n254711000001\n0711000002\n00254711000003\n+254 711-000004\n254711000005.0\n"
    read = [row.recipient for row in chunk_of(content, "Hello", "KE").taken]
    assert read == [f"+25471100000{last}" for last in range(1, 6)]
    assert refused_of("phone\n0711000002\n", "Hello") == [(2, "0711000002", "invalid_phone")]


def test_a_number_twice_in_any_spelling_is_one() -> None:
    chunk = chunk_of("phone,name\n+254711000001,a\n254711000001,a\n+254 711 000 001, a\n")
    assert ([row.text for row in chunk.taken], chunk.duplicates) == (["Dear a"], 2)


@pytest.mark.parametrize(
    "endless",
    ["," * 20_000_000, '"a\n",' * 4_000_000, '"' + "a\n" * 10_000_000],
    ids=["cells on one line", "cells over many lines", "one cell over many lines"],
)
def test_a_row_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path, endless: str) -> None:
    """250 MB of commas on one line took 2.5 GB."""
    path = tmp_path / "endless.csv"
    path.write_text(f"phone\n+254711000001\n{endless}")
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(InvalidFile) as refused:
            list(read_rows(file, read_header(b"phone,name\n")))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.code in ("row_too_long", "unreadable_csv")
    assert peak < 16_000_000


def test_a_long_row_is_read_as_long_as_it_ends_in_time() -> None:
    row = ",".join(["+254711000001", *["x" * 50] * 3000])
    file = io.BytesIO(f"phone\n{row}\n{row}\n".encode())
    assert [line for line, _ in read_rows(file, read_header(b"phone,name\n"))] == [2, 3]
