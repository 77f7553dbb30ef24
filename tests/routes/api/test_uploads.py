from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI
from sqlalchemy import func, select, update
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from messaging.batches.importer import import_next
from messaging.costs import prices
from messaging.operations.audit import audit
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from routes.uploads import SLOTS
from tests.support.web import API_KEY, Caller
from tests.support.workbooks import workbook
from utils.money import parse_money
from utils.provider_answers import RecipientAnswer
from utils.settings import Settings

FILE = "Phone;Name\r\n+254711000001;Amina\r\n254711000002;Brian\r\n+254711000001;Amina\r\n12;Nobody\r\n"
TEXT = "Dear {{name}}, school closes at noon"


def upload(
    app: OpenAPI, content: str | bytes = FILE, path: str = "/v1/batches", **fields: Any
) -> TestResponse:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    key = fields.pop("key", None)
    if key is not None:
        headers["Idempotency-Key"] = key
    raw = content.encode() if isinstance(content, str) else content
    body, kind = encode_multipart_formdata({"text": TEXT} | fields | {"file": ("people.csv", raw)})
    return app.test_client().post(path, data=body, headers=headers, content_type=kind)


def import_all(database: Database, settings: Settings) -> None:
    while import_next(database, settings, lambda: False):
        pass


def error_of(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, answer.json["error"]["code"]  # type: ignore[index]


def rows_of(answer: TestResponse) -> list[dict[str, str]]:
    assert (answer.status_code, answer.mimetype) == (200, "text/csv")
    assert answer.data.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(answer.data.decode("utf-8-sig"), newline="")))


def count(database: Database, table: Any) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_a_file_becomes_a_batch_of_personal_texts(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    answer = upload(app)
    assert (answer.status_code, answer.json) == (202, {"id": 1, "status": "receiving"})
    assert caller.get("/v1/batches/1").json["status"] == "receiving"  # type: ignore[index]
    import_all(database, settings)
    batch: dict[str, Any] = caller.get("/v1/batches/1").json  # type: ignore[assignment]
    assert (batch["status"], batch["total"], batch["refused"], batch["duplicates"]) == ("sending", 2, 1, 1)
    texts = {message["to"]: message["text"] for message in caller.messages(batch_id=1)}
    assert texts == {
        "+254711000001": "Dear Amina, school closes at noon",
        "+254711000002": "Dear Brian, school closes at noon",
    }
    assert count(database, tables.upload_pieces) == 0
    assert audit(database).problems == []


def test_the_refused_rows_come_back_with_line_value_and_reason(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    content = "phone,name\n2.547E+11,Asha\n+254711000001,\n=1+1,Bob\n,Carol\n+254711000002,Dan\n"
    upload(app, content)
    import_all(database, settings)
    rows = rows_of(caller.get("/v1/batches/1/refused.csv"))
    assert [(row["line"], row["value"], row["code"]) for row in rows] == [
        ("2", "2.547E+11", "excel_notation"),
        ("3", "+254711000001", "empty_value"),
        ("4", "'=1+1", "invalid_phone"),
        ("5", "", "missing_phone"),
    ]
    assert "'name' is empty" in rows[1]["reason"]


def test_refused_rows_have_their_own_columns_and_can_be_mended_and_sent_again(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    content = 'Name,Phone,Line\n"Amina, Ms",0711000001,7\nÉlodie,+254711000002,8\nDan,12,9,extra\n'
    upload(app, content, text="Dear {{name}}, {{line}}")
    import_all(database, settings)
    answer = caller.get("/v1/batches/1/refused.csv")
    rows = rows_of(answer)
    assert list(rows[0]) == ["refused_line", "value", "code", "reason", "Name", "Phone", "Line"]
    assert [(row["refused_line"], row["Name"], row["Phone"], row["Line"]) for row in rows] == [
        ("2", "Amina, Ms", "0711000001", "7"),
        ("4", "Dan", "12", "9"),
    ]
    mended = answer.data.replace(b",0711000001,7", b",+254711000001,7")
    upload(app, mended, text="Dear {{name}}, {{line}}")
    import_all(database, settings)
    assert [one["text"] for one in caller.messages(batch_id=2)] == ["Dear Amina, Ms, 7"]


def test_every_row_is_sent_or_stands_in_a_download_with_its_line(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    numbers = ["+254711000001", "254711000002", "12", "+254711000001", "NULL", "+254711000001/2"]
    content = "phone,name\n" + "".join(f"{number},Amina\n" for number in numbers) + "+254711000001,Brian\n"
    upload(app, content)
    import_all(database, settings)
    batch: dict[str, Any] = caller.get("/v1/batches/1").json  # type: ignore[assignment]
    duplicates, refused = (
        rows_of(caller.get(f"/v1/batches/1/{name}.csv")) for name in ("duplicates", "refused")
    )
    assert [(row["line"], row["code"], row["phone"], row["name"]) for row in duplicates] == [
        ("5", "duplicate", "+254711000001", "Amina")
    ]
    assert [row["line"] for row in refused] == ["4", "6", "7"]
    assert (batch["total"], batch["duplicates"], batch["refused"]) == (3, len(duplicates), len(refused))
    assert batch["total"] + len(duplicates) + len(refused) == 7


def test_the_column_of_the_numbers_can_be_chosen(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    content = "mobile,tel,name\n+254711000001,+254711000009,Amina\n"
    assert error_of(upload(app, content)) == (400, "several_phone_columns")
    assert error_of(upload(app, content, "/v1/quote", phone_column="fax")) == (400, "missing_phone_column")
    assert upload(app, content, "/v1/quote", phone_column="Tel").json["recipients"] == 1  # type: ignore[index]
    upload(app, content, phone_column="Tel")
    import_all(database, settings)
    assert [one["to"] for one in caller.messages()] == ["+254711000009"]


def test_the_country_of_a_file_is_chosen_where_it_is_not_the_set_one(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    content = "phone,name\n0711000009,Amina\n"
    assert error_of(upload(app, content, default_region="Kenya")) == (400, "invalid_region")
    assert error_of(upload(app, content, "/v1/quote", default_region="Kenya")) == (400, "invalid_region")
    assert upload(app, content, "/v1/quote").json["recipients"] == 0  # type: ignore[index]
    assert upload(app, content, "/v1/quote", default_region="KE").json["recipients"] == 1  # type: ignore[index]
    upload(app, content, default_region="KE")
    import_all(database, settings)
    assert [one["to"] for one in caller.messages()] == ["+254711000009"]


@pytest.mark.parametrize(
    ("max_refused", "status", "reason", "sent"),
    [("0.2", "cancelled", "too_many_refused", 0), ("0.25", "sending", None, 3), ("", "sending", None, 3)],
)
def test_of_a_file_with_too_many_refused_rows_nothing_is_sent(
    app: OpenAPI,
    database: Database,
    settings: Settings,
    caller: Caller,
    max_refused: str,
    status: str,
    reason: str | None,
    sent: int,
) -> None:
    rows = "".join(f"+25471100000{number},Ann\n" for number in (1, 2, 3))
    assert upload(app, f"phone,name\n{rows}12,Bob\n", max_refused=max_refused).status_code == 202
    import_all(database, settings)
    batch: dict[str, Any] = caller.get("/v1/batches/1").json  # type: ignore[assignment]
    assert (batch["status"], batch.get("reason")) == (status, reason)
    assert [one["status"] for one in caller.messages()].count("queued") == sent
    assert len(rows_of(caller.get("/v1/batches/1/refused.csv"))) == 1


@pytest.mark.parametrize("share", ["20", "-1", "NaN", "many"])
def test_a_share_of_refused_rows_lies_between_nothing_and_all(app: OpenAPI, share: str) -> None:
    assert error_of(upload(app, max_refused=share)) == (400, "invalid_request")


def test_an_excel_file_is_a_batch_like_any_other(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    rows = [["Mobile", "Name"], [254711000001.0, "Élodie"], ["+254711000001/2", "Brian"], ["-", ""]]
    content = workbook({"Notes": [["nothing"]], "People": rows})
    assert error_of(upload(app, content)) == (400, "missing_phone_column")
    assert error_of(upload(app, content, sheet="Other")) == (400, "missing_sheet")
    quoted: dict[str, Any] = upload(app, content, "/v1/quote", sheet="People").json  # type: ignore[assignment]
    assert quoted["samples"] == [{"to": "+254711000001", "text": "Dear Élodie, school closes at noon"}]
    upload(app, content, sheet="People")
    import_all(database, settings)
    assert [one["text"] for one in caller.messages()] == ["Dear Élodie, school closes at noon"]
    refused = rows_of(caller.get("/v1/batches/1/refused.csv"))
    assert [(row["line"], row["code"], row["Name"]) for row in refused] == [
        ("3", "two_numbers", "Brian"),
        ("4", "missing_phone", ""),
    ]


def test_two_sheets_of_one_file_are_not_taken_for_the_same_send(app: OpenAPI) -> None:
    content = workbook({"March": [["phone"], ["+254711000001"]], "April": [["phone"], ["+254711000002"]]})
    for sheet, status in (("March", 202), ("April", 202), ("March", 409), ("April", 409)):
        answer = upload(app, content, text="Hello", sheet=sheet, again="false")
        assert answer.status_code == status, (sheet, answer.json)


def test_a_very_long_row_is_kept_without_its_cells(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    upload(app, f"phone,name\n12,{'x' * 5000}\n13,Dan\n")
    import_all(database, settings)
    rows = rows_of(caller.get("/v1/batches/1/refused.csv"))
    assert [(row["line"], row["value"], row["name"]) for row in rows] == [
        ("2", "12", None),
        ("3", "13", "Dan"),
    ]


def test_the_messages_come_back_as_a_file_that_computes_nothing_in_a_spreadsheet(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    upload(app, 'phone,name\n+254711000001,"=HYPERLINK(""http://x"")\nsecond line"\n', text="{{name}}")
    import_all(database, settings)
    (row,) = rows_of(caller.get("/v1/batches/1/messages.csv"))
    assert row["to"] == "+254711000001"
    assert row["text"] == '\'=HYPERLINK("http://x")\nsecond line'
    assert row["status"] == "queued"


def test_the_same_file_with_the_same_key_is_one_batch(app: OpenAPI, database: Database) -> None:
    first, second = upload(app, key="k"), upload(app, key="k")
    assert (first.json, second.json) == ({"id": 1, "status": "receiving"},) * 2
    assert second.headers["Idempotent-Replay"] == "true"
    assert count(database, tables.batches) == 1
    assert error_of(upload(app, FILE + "+254711000009;New\n", key="k")) == (422, "idempotency_key_reused")
    assert error_of(upload(app, key="k", name="other")) == (422, "idempotency_key_reused")


def test_what_is_wrong_with_the_whole_file_is_said_before_anything_is_kept(
    app: OpenAPI, database: Database
) -> None:
    assert error_of(upload(app, "phone\n+254711000001\n")) == (400, "missing_column")
    assert error_of(upload(app, "who,name\n1,2\n")) == (400, "missing_phone_column")
    assert error_of(upload(app, "phone,phone\n1,2\n")) == (400, "duplicate_column")
    assert error_of(upload(app, b"phone,name\n+254711000001,Jos\n" + b"\xc3")) == (400, "not_utf8")
    assert error_of(upload(app, FILE.encode("utf-16")[:-1])) == (400, "not_utf8")
    assert error_of(upload(app, "")) == (400, "empty_file")
    assert error_of(upload(app, text=" ")) == (400, "empty_message")
    assert error_of(upload(app, text="Dear {{name")) == (400, "invalid_placeholder")
    assert error_of(upload(app, max_cost="much")) == (400, "invalid_money")
    for max_cost in (
        "KES 0",
        "KES -5",
        "5000",
        "KES 5,000",
        '{"amount": "5"}',
        "KES 0.0000001",
        "[" * 10_000,
    ):
        assert error_of(upload(app, max_cost=max_cost)) == (400, "invalid_money")
    assert error_of(upload(app, sender_id="@@")) == (400, "invalid_sender_id")
    assert error_of(upload(app, expires_at="2020-01-01T00:00:00Z")) == (400, "invalid_time")
    assert error_of(upload(app, send_at="2025-12-01T08:00:00Z")) == (400, "send_at_in_past")
    for field in ("send_at", "expires_at"):
        refused = upload(app, **{field: "2036-01-01T08:00:00"})
        assert error_of(refused) == (400, "invalid_request")
        assert refused.json["error"]["field"] == field  # type: ignore[index]
        assert "like 2026-11-24T08:00:00+03:00" in refused.json["error"]["message"]  # type: ignore[index]
    assert count(database, tables.batches) == 0


def test_a_form_without_a_file_is_refused(app: OpenAPI) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    for form in ({"text": "x"}, {"text": "x", "file": "phone"}):
        answer = app.test_client().post(
            "/v1/batches", data=form, headers=headers, content_type="multipart/form-data"
        )
        assert error_of(answer) == (400, "invalid_request")


def test_a_file_larger_than_any_other_body_is_taken(app: OpenAPI) -> None:
    content = "phone,name\n" + "+254711000001,A rather long name indeed\n" * 80_000
    assert upload(app, content).status_code == 202


def test_uploads_take_turns_and_give_their_place_back(app: OpenAPI) -> None:
    assert [upload(app).status_code for _ in range(5)] == [202] * 5
    slots = app.extensions[SLOTS]
    while slots.acquire(blocking=False):
        pass
    assert error_of(upload(app)) == (503, "busy")


def test_every_field_of_the_form_reaches_the_batch(app: OpenAPI, caller: Caller) -> None:
    answer = upload(
        app,
        name="2024",
        sender_id="20880",
        send_at="2036-01-01T08:00:00Z",
        expires_at="2036-01-02T08:00:00Z",
        max_cost="KES 100",
    )
    assert error_of(answer) == (400, "invalid_time")
    answer = upload(app, name="2024", sender_id="20880", max_cost="KES 100")
    batch: dict[str, Any] = caller.get("/v1/batches/1").json  # type: ignore[assignment]
    assert (batch["name"], batch["max_cost"]) == ("2024", {"amount": "100.0000", "currency": "KES"})


def test_max_cost_may_be_written_as_answers_write_money(app: OpenAPI, caller: Caller) -> None:
    assert upload(app, max_cost='{"amount": "99.5000", "currency": "KES"}').status_code == 202
    batch: dict[str, Any] = caller.get("/v1/batches/1").json  # type: ignore[assignment]
    assert batch["max_cost"] == {"amount": "99.5000", "currency": "KES"}


def test_a_quote_of_messages_counts_parts_and_names_what_makes_them_long(
    app: OpenAPI, caller: Caller
) -> None:
    text = "x" * 100 + "’"
    answer = app.test_client().post(
        "/v1/quote",
        json={"to": ["+254711000001", "+254711000001", "12"], "text": text},
        headers={"Authorization": f"Bearer {API_KEY}"},
    )
    assert answer.status_code == 200
    quote: dict[str, Any] = answer.json  # type: ignore[assignment]
    assert (quote["recipients"], quote["duplicates"], quote["parts"]) == (1, 1, 2)
    assert quote["encodings"] == {"GSM-7": 0, "UCS-2": 1}
    assert quote["spills"] == [{"to": "+254711000001", "parts": 2, "character": "’", "suggestion": "'"}]
    assert [one["to"] for one in quote["refused"]] == ["12"]
    assert quote["estimated_cost"] == "unknown"
    assert caller.messages() == []


def test_a_quote_of_a_file_counts_its_rows(app: OpenAPI, database: Database) -> None:
    quote: dict[str, Any] = upload(app, path="/v1/quote").json  # type: ignore[assignment]
    assert (quote["recipients"], quote["duplicates"], quote["refused_total"]) == (2, 1, 1)
    assert quote["parts"] == 2
    assert (
        count(database, tables.batches)
        == count(database, tables.messages)
        == count(database, tables.upload_pieces)
        == 0
    )


def test_the_bill_says_where_our_estimate_was_wrong(
    app: OpenAPI, database: Database, settings: Settings, caller: Caller
) -> None:
    upload(app, "phone,name\n+254711000001,a\n+254711000002,b\n+254711000003,c\n")
    import_all(database, settings)
    answer = RecipientAnswer("+254711000001", "accepted", cost=parse_money("KES 0.8000"))
    with database.write() as connection:
        prices.learn(database, connection, settings.at_sender_id, "Hello", [answer], utc_now())
        for message_id, parts, micros in ((1, 1, 800_000), (2, 2, 1_700_000)):
            cost = {"parts": parts, "cost_micros": micros, "cost_currency": "KES"}
            connection.execute(
                update(tables.messages).where(tables.messages.c.id == message_id).values(**cost)
            )
    assert caller.get("/v1/batches/1/bill").json == {
        "messages": 2,
        "estimated_parts": 2,
        "billed_parts": 3,
        "differing": 1,
        "estimated_costs": [{"amount": "1.6000", "currency": "KES"}],
        "billed_costs": [{"amount": "2.5000", "currency": "KES"}],
        "unpriced": 0,
        "examples": [{"id": 2, "estimated_parts": 1, "billed_parts": 2}],
    }


def test_of_a_batch_that_is_not_there_nothing_is_shown(caller: Caller) -> None:
    for path in ("", "/bill", "/refused.csv", "/messages.csv"):
        assert error_of(caller.get(f"/v1/batches/7{path}")) == (404, "not_found")
        assert error_of(caller.get(f"/v1/batches/99999999999999999999{path}")) == (404, "not_found")


def test_a_file_that_was_sent_within_the_day_is_refused_where_the_caller_asks_for_it(
    app: OpenAPI, database: Database
) -> None:
    first = upload(app, again="false", key="a")
    assert first.status_code == 202
    refused = upload(app, again="false")
    assert error_of(refused) == (409, "already_sent")
    assert refused.json["error"]["details"]["id"] == 1  # type: ignore[index]
    assert error_of(upload(app, again="false", sender_id="20880", key="b")) == (409, "already_sent")
    assert upload(app, again="false", text="Another text for {{name}}").status_code == 202
    # The same call again is answered as the first one was.
    replay = upload(app, again="false", key="a")
    assert (replay.status_code, replay.json, replay.headers["Idempotent-Replay"]) == (202, first.json, "true")
    for spelt in ({}, {"again": "true"}, {"again": ""}):
        assert upload(app, **spelt).status_code == 202
    with database.read() as connection:
        kept = select(func.count(tables.upload_pieces.c.upload_id.distinct()))
        assert connection.execute(kept).scalar_one() == count(database, tables.batches) == 5
