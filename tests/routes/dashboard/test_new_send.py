"""Sending a file: what the check says of it, and that the send is what was checked."""

from __future__ import annotations

import csv
import io
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.batches.importer import import_next
from messaging.storage.database import Database
from routes.dashboard import new_send
from tests.routes.conftest import MakeApp
from tests.routes.dashboard.test_access_pages import FIRST, Visitor
from tests.support import delivery
from tests.support.web import Caller
from tests.support.workbooks import workbook
from utils import uploaded_files
from utils.settings import Settings

PEOPLE = "phone,name\n+254711000001,Amina\n0711000002,Brian\n+254711000001,Amina\n12,Nobody\n"


def send(visitor: Visitor, content: str | bytes | None, path: str = "/sends/check", **fields: str) -> Any:
    raw = content.encode() if isinstance(content, str) else content
    file: dict[str, Any] = {} if raw is None else {"file": (io.BytesIO(raw), "people.csv")}
    return visitor.post("/sends/new", path, **{"text": "Dear {{name}}"} | fields | file)


def rows_of(page: str, words: str) -> list[list[str]]:
    """Of the table with this name."""
    table = page.partition(f'aria-label="{words}, table"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.DOTALL)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]


def test_a_check_tells_the_line_of_each_row_that_is_left_out(visitor: Visitor) -> None:
    page = send(visitor, PEOPLE, default_region="KE").text
    (refused,) = rows_of(page, "Refused rows")
    assert refused[:2] == ["5", "12"]
    assert rows_of(page, "Duplicates")[0][:2] == ["4", "+254711000001"]
    # Of four rows one is more than a fifth.
    assert "More than a fifth" in page


def test_the_refused_rows_can_be_had_before_anything_is_sent(visitor: Visitor) -> None:
    answer = send(visitor, PEOPLE, "/sends/refused.csv", default_region="KE")
    assert answer.headers["Content-Disposition"] == "attachment; filename=refused.csv"
    title, *rows = csv.reader(io.StringIO(answer.text.removeprefix("\ufeff")))
    assert title == ["line", "value", "code", "reason", "phone", "name"]
    assert [(row[:2], row[4:]) for row in rows] == [(["5", "12"], ["12", "Nobody"])]
    pasted = send(visitor, None, "/sends/refused.csv", numbers="+254711000001\n12", text="Hello")
    assert pasted.text.splitlines()[1].startswith("2,12,")
    assert send(visitor, None, "/sends/refused.csv").status_code == 400


def test_the_duplicates_can_be_had_before_anything_is_sent(visitor: Visitor) -> None:
    answer = send(visitor, PEOPLE, "/sends/duplicates.csv", default_region="KE")
    assert answer.headers["Content-Disposition"] == "attachment; filename=duplicates.csv"
    title, *rows = csv.reader(io.StringIO(answer.text.removeprefix("\ufeff")))
    assert title == ["line", "value", "code", "reason", "phone", "name"]
    assert [(row[:3], row[4:]) for row in rows] == [
        (["4", "+254711000001", "duplicate"], ["+254711000001", "Amina"])
    ]
    numbers = "\n".join(["+254711000001"] * 250)
    pasted = send(visitor, None, "/sends/duplicates.csv", numbers=numbers, text="Hello")
    lines = pasted.text.splitlines()[1:]
    assert (len(lines), lines[0].partition(",")[0], lines[-1].partition(",")[0]) == (249, "2", "250")
    assert send(visitor, None, "/sends/duplicates.csv").status_code == 400
    assert "/sends/duplicates.csv" in send(visitor, PEOPLE, default_region="KE").text
    assert "/sends/duplicates.csv" not in send(visitor, "phone\n+254711000001\n", text="Hello").text


def test_of_pasted_numbers_the_place_is_told(visitor: Visitor) -> None:
    numbers = "+254711000001\n+254711000002\n+254711000003\n+254711000004, 12"
    page = send(visitor, None, numbers=numbers, text="Hello").text
    assert rows_of(page, "Refused rows")[0][:2] == ["5", "12"]
    assert "Send 4 texts" in page


def test_of_many_refused_rows_the_first_are_shown_and_the_others_counted(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_send, "SHOWN_ROWS", 2)
    page = send(visitor, "phone,name\n" + "1,A\n" * 5).text
    assert len(rows_of(page, "Refused rows")) == 2
    assert "And 3 more" in page


def test_the_country_that_was_checked_is_the_one_that_is_sent(
    visitor: Visitor, app: OpenAPI, database: Database, settings: Settings
) -> None:
    content = "phone,name\n0711000001,Amina\n"
    page = send(visitor, content).text
    assert "1 of the refused would be numbers of Kenya: choose it above" in page
    page = send(visitor, content, default_region="KE").text
    assert '<option value="KE" selected>Kenya</option>' in page
    assert "Send 1 text" in page
    assert send(visitor, content, "/sends/new", default_region="KE").status_code == 303
    import_next(database, settings, lambda: False)
    assert [one["to"] for one in Caller(app).messages()] == ["+254711000001"]


def test_the_set_country_is_chosen_wherever_it_is(make_app: MakeApp) -> None:
    for region, name in (("TZ", "Tanzania"), ("IN", "IN")):
        visitor = Visitor(make_app(dashboard_password=FIRST, secret_key="a-key", default_region=region))
        visitor.log_in("admin", FIRST)
        page = visitor.client.get("/sends/new").text
        assert f'<option value="{region}" selected>{name}</option>' in page
        assert "all have their + and country code" not in page


def test_where_two_columns_may_hold_the_numbers_the_clerk_chooses(
    visitor: Visitor, app: OpenAPI, database: Database, settings: Settings
) -> None:
    content = "mobile,tel,name\n+254711000001,+254711000009,Amina\n"
    refused = send(visitor, content)
    assert refused.status_code == 400
    assert "More than one column may hold the numbers (mobile, tel)" in refused.text
    assert re.findall(r"<option>(\w+)</option>", refused.text) == ["mobile", "tel"]
    page = send(visitor, content, phone_column="tel").text
    assert "<option selected>tel</option>" in page
    assert "+254711000009" in page
    send(visitor, content, "/sends/new", phone_column="tel")
    import_next(database, settings, lambda: False)
    assert [one["to"] for one in Caller(app).messages()] == ["+254711000009"]


def test_a_file_without_a_line_of_names_is_not_cut_by_one_row(visitor: Visitor) -> None:
    """Else the first person would be taken for the name of the column, and get nothing."""
    refused = send(visitor, "+254711000001,Amina\n+254711000002,Brian\n")
    assert "Here it holds a number already" in refused.text
    assert "<option>+254711000001" not in refused.text


def test_another_column_is_found_where_none_has_a_known_name(visitor: Visitor) -> None:
    content = "contact;name\n+254711000001;Amina\n"
    refused = send(visitor, content).text
    assert "No column of the file is called" in refused
    assert re.findall(r"<option>(\w+)</option>", refused) == ["contact", "name"]
    assert "Send 1 text" in send(visitor, content, phone_column="contact").text
    # The column of a file that was taken away again.
    assert (
        "Send 1 text" in send(visitor, None, numbers="+254711000001", text="Hi", phone_column="contact").text
    )


def test_each_of_the_first_texts_can_be_read(visitor: Visitor) -> None:
    content = "phone,name\n" + "".join(f"+2547110000{one},N{one}\n" for one in range(10, 40))
    page = send(visitor, content).text
    assert re.findall(r"<blockquote>Dear N(\d+)</blockquote>", page) == [str(one) for one in range(10, 30)]
    assert len(re.findall("<blockquote>", send(visitor, content, text="Hello all").text)) == 1


def test_what_cannot_be_sent_is_told_by_the_check(visitor: Visitor) -> None:
    for fields, sentence in (
        ({"max_cost": "a lot"}, "max_cost is an amount above 0"),
        ({"send_at": "2020-01-01T08:00"}, "send_at"),
        ({"default_region": "XX"}, "A country is named by its two letters"),
    ):
        refused = send(visitor, "phone,name\n+254711000001,Amina\n", **fields)
        assert (refused.status_code, sentence in refused.text) == (400, True), fields


def test_a_workbook_is_converted_once_for_a_check(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    convert, calls = uploaded_files._read_workbook, []

    def count(*about: Any) -> list[str]:
        calls.append(1)
        return convert(*about)

    monkeypatch.setattr(uploaded_files, "_read_workbook", count)
    content = workbook({"People": [["phone", "name"], ["+254711000001", "Amina"]]})
    assert "Send 1 text" in send(visitor, content).text
    assert len(calls) == 1


def sheets_of(page: str) -> list[tuple[str, bool]]:
    """Of the select: each name, and whether it is the chosen one."""
    choice = page.partition('<select name="sheet">')[2].partition("</select>")[0]
    return [
        (name, bool(chosen)) for name, chosen in re.findall(r'<option value="(.*?)"( selected)?>', choice)
    ]


def people(number: int) -> list[list[str]]:
    return [["phone", "name"], [f"+25471100000{number}", f"N{number}"]]


def test_of_a_workbook_with_sheets_the_clerk_chooses_one_and_that_one_is_sent(
    visitor: Visitor, app: OpenAPI, database: Database, settings: Settings
) -> None:
    content = workbook({"March": people(1), "April & May": people(2)})
    page = send(visitor, content).text
    assert sheets_of(page) == [("March", False), ("April &amp; May", False)]
    assert "Dear N1" in page
    page = send(visitor, content, sheet="April & May").text
    assert sheets_of(page) == [("March", False), ("April &amp; May", True)]
    assert ("Dear N1" in page, "Dear N2" in page) == (False, True)
    send(visitor, content, "/sends/new", sheet="April & May")
    import_next(database, settings, lambda: False)
    assert [one["to"] for one in Caller(app).messages()] == ["+254711000002"]
    assert Caller(app).get("/v1/batches/1").json["name"] == "people.csv, April & May"  # type: ignore[index]


def test_two_sheets_of_one_file_are_two_sends_and_one_of_them_again_is_said(visitor: Visitor) -> None:
    content = workbook({"March": people(1), "April": people(2)})
    assert send(visitor, content, "/sends/new", sheet="March").status_code == 303
    assert "Everybody in it would get it twice" not in send(visitor, content, sheet="April").text
    assert "Everybody in it would get it twice" in send(visitor, content, sheet="March").text
    assert "Everybody in it would get it twice" in send(visitor, content).text
    assert send(visitor, content, "/sends/new", sheet="April").status_code == 303
    assert send(visitor, content, "/sends/new", sheet="April").status_code == 400


def test_where_the_first_sheet_is_no_list_another_one_can_be_chosen(visitor: Visitor) -> None:
    content = workbook({"Notes": [["nothing"]], "People": people(1)})
    refused = send(visitor, content)
    assert refused.status_code == 400
    assert [name for name, _ in sheets_of(refused.text)] == ["Notes", "People"]
    assert "Send 1 text" in send(visitor, content, sheet="People").text


def test_a_sheet_that_another_file_had_is_told_with_those_that_there_are(visitor: Visitor) -> None:
    content = workbook({"March": people(1), "April": people(2)})
    refused = send(visitor, content, sheet="June")
    assert refused.status_code == 400
    assert "only: March, April" in refused.text
    assert [name for name, _ in sheets_of(refused.text)] == ["March", "April"]
    told = send(visitor, PEOPLE, sheet="March").text
    assert "Only an Excel file has sheets" in told
    assert 'name="sheet"' not in told
    # A file that was taken away again.
    assert "Send 1 text" in send(visitor, None, numbers="+254711000001", text="Hi", sheet="March").text


def test_a_workbook_of_one_sheet_asks_nothing(visitor: Visitor) -> None:
    assert 'name="sheet"' not in send(visitor, workbook({"Only": people(1)})).text


def test_an_answer_is_measured_with_what_it_costs_and_a_send_without(
    visitor: Visitor, database: Database
) -> None:
    def measured(**query: str) -> Any:
        path = "/sends/measure" + (f"?{urlencode(query)}" if query else "")
        return visitor.post("/sends/new", path, text="x" * 200).json

    about = {"to": "+254711000001", "number": "20880"}
    assert "cost" not in measured(**about)
    delivery.know_price(database)
    assert measured(**about)["cost"] == "KES 1.60"
    assert "cost" not in measured()
