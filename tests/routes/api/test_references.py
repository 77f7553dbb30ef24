"""The caller's own id: kept, found by, told in events, and in a file a column of that name."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI

from messaging import statuses
from messaging.messages import unknown_outcomes
from messaging.sending.record import record_failure
from messaging.storage import tables
from messaging.storage.database import Database
from tests.routes.api.test_uploads import import_all, rows_of, upload
from tests.routes.conftest import MakeApp
from tests.support import delivery
from tests.support.web import Caller
from utils.errors import OutcomeUnknown
from utils.settings import Settings

ALICE = "+254711000001"
BOB = "+254711000002"
FILE = "phone,name,reference\n+254711000001,Amina,visit-7\n+254711000002,Brian,\n"


def send(caller: Caller, **fields: Any) -> Any:
    return caller.post("/v1/messages", {"to": ALICE, "text": "Hello", **fields})


def test_a_message_is_found_by_the_callers_own_id(caller: Caller) -> None:
    for reference in ("visit-7", "visit-8", None):
        assert send(caller, reference=reference).status_code == 202
    (found,) = caller.messages(reference="visit-7")
    assert (found["reference"], found["id"]) == ("visit-7", 1)
    assert caller.message(3)["reference"] is None
    assert caller.messages(reference="visit") == []


@pytest.mark.parametrize("reference", ["a" * 101, "a\nb"])
def test_a_reference_that_cannot_be_is_refused_with_its_field(caller: Caller, reference: str) -> None:
    answer = send(caller, reference=reference)
    assert answer.status_code == 400
    assert answer.json["error"]["field"] == "reference"
    assert answer.json["error"]["code"] == "invalid_reference"


def test_a_key_with_another_reference_is_another_request(caller: Caller) -> None:
    def keyed(**fields: Any) -> int:
        body = {"to": ALICE, "text": "Hello", **fields}
        return caller.post("/v1/messages", body, headers={"Idempotency-Key": "k"}).status_code

    assert [keyed(reference="a"), keyed(reference="a"), keyed(reference="b"), keyed()] == [202, 202, 422, 422]


def test_a_resend_keeps_the_reference(caller: Caller, database: Database) -> None:
    posting = delivery.post_to(database, ALICE, reference="visit-7")
    record_failure(database, posting, OutcomeUnknown(reason="timed_out"))
    new_id = unknown_outcomes.resend(database, 1)
    assert caller.message(new_id)["reference"] == "visit-7"


def test_events_tell_the_reference(database: Database) -> None:
    database.forwards = True
    delivery.queue(database, ALICE, reference="visit-7")
    delivery.opt_out(database, ALICE)
    delivery.claim(database)
    bodies = [json.loads(row.body) for row in delivery.every(database, tables.forward_events)]
    told = [body["data"]["reference"] for body in bodies if body["type"] == "message.blocked"]
    assert told == ["visit-7"]


def test_a_files_column_of_that_name_is_each_rows_own(
    app: OpenAPI, caller: Caller, database: Database, settings: Settings
) -> None:
    assert upload(app, FILE, text="Dear {{name}}, see {{reference|us}}").status_code == 202
    import_all(database, settings)
    (found,) = caller.messages(reference="visit-7")
    assert (found["to"], found["text"]) == (ALICE, "Dear Amina, see visit-7")
    assert caller.messages(to=BOB)[0]["reference"] is None


def test_a_row_with_a_reference_that_cannot_be_is_refused(
    app: OpenAPI, caller: Caller, database: Database, settings: Settings
) -> None:
    upload(app, FILE + f"+254711000003,Carol,{'a' * 101}\n", text="Dear {{name}}")
    import_all(database, settings)
    (row,) = rows_of(caller.get("/v1/batches/1/refused.csv"))
    assert (row["line"], row["code"], row["name"]) == ("4", "invalid_reference", "Carol")


def test_downloads_have_line_reasons_and_the_files_own_columns(
    app: OpenAPI, caller: Caller, database: Database, settings: Settings
) -> None:
    content = (
        "Phone,Name,Ward\n+254711000001,Amina,3\n12,Nobody,4\n+254711000002,Brian,5\n+254711000003,Carol,6\n"
    )
    upload(app, content, text="Dear {{name}}")
    import_all(database, settings)
    failed = {"status": "failed", "reason": "absent_subscriber", "network": "63902"}
    for message_id, values in ((1, {"status": "delivered"}), (2, failed)):
        delivery.change(database, tables.messages, message_id, **values)
    rows = rows_of(caller.get("/v1/batches/1/messages.csv"))
    assert [(row["line"], row["to"], row["Name"], row["Ward"]) for row in rows] == [
        ("2", ALICE, "Amina", "3"),
        ("4", BOB, "Brian", "5"),
        ("5", "+254711000003", "Carol", "6"),
    ]
    (row,) = rows_of(caller.get("/v1/batches/1/undelivered.csv"))
    assert (row["line"], row["Name"], row["network"], row["reason"]) == (
        "4",
        "Brian",
        "Safaricom",
        "absent_subscriber",
    )
    assert row["explanation"].startswith("The network could not reach the phone")
    assert row["remedy"].startswith("Try again later")


def test_what_may_have_arrived_or_may_yet_arrive_is_not_told_as_undelivered(
    app: OpenAPI, caller: Caller, database: Database, settings: Settings
) -> None:
    people = [f"+2547110001{number:02}" for number in range(len(statuses.ALL))]
    upload(app, "\n".join(["phone", *people]), text="Hello")
    import_all(database, settings)
    for message_id, status in enumerate(statuses.ALL, start=1):
        delivery.change(database, tables.messages, message_id, status=status)
    rows = rows_of(caller.get("/v1/batches/1/undelivered.csv"))
    settled = {"failed", "expired", "rejected", "blocked", "cancelled", "no_report"}
    assert {row["status"] for row in rows} == settled


def test_a_file_of_numbers_alone_is_not_kept_twice(
    app: OpenAPI, caller: Caller, database: Database, settings: Settings
) -> None:
    upload(app, f"phone\n{ALICE}\n", text="Hello")
    import_all(database, settings)
    assert delivery.message(database, 1).cells is None
    answer = caller.get("/v1/batches/1/messages.csv").data.decode("utf-8-sig")
    names, row = csv.reader(io.StringIO(answer, newline=""))
    assert len(names) == len(row)
    assert (names[0], row[0]) == ("line", "2")


def test_a_column_that_is_called_as_one_of_ours_keeps_its_name(
    app: OpenAPI, caller: Caller, database: Database, settings: Settings
) -> None:
    upload(app, f"phone,status\n{ALICE},married\n", text="Hello")
    import_all(database, settings)
    (row,) = rows_of(caller.get("/v1/batches/1/messages.csv"))
    assert (row["message_status"], row["status"]) == ("queued", "married")


def test_the_download_of_a_batch_that_does_not_exist_is_not_found(make_app: MakeApp) -> None:
    assert Caller(make_app()).get("/v1/batches/9/undelivered.csv").status_code == 404
