"""Opt-outs as a file: downloaded, taken in again, and what of it could not be used."""

from __future__ import annotations

import csv
import io

from flask_openapi.openapi import OpenAPI

from messaging.consent import views as opt_out_views
from messaging.consent.csv_export import COLUMNS
from messaging.consent.views import LedgerFilters
from messaging.storage.database import Database
from tests.routes.dashboard.test_access_pages import PASSWORD, Visitor, add
from tests.support import delivery

ONE, TWO, THREE = delivery.phones(3)


def in_force(database: Database) -> set[str]:
    found = opt_out_views.list_entries(database, LedgerFilters(in_force=True))
    return {one["phone"] for one in found["items"]}


def take_in(visitor: Visitor, content: str) -> str:
    file = (io.BytesIO(content.encode()), "opt-outs.csv")
    return str(visitor.post("/opt-outs", "/opt-outs/import", file=file).text)  # type: ignore[arg-type]


def test_the_list_is_downloaded_and_can_be_taken_in_again(visitor: Visitor, database: Database) -> None:
    for phone in (ONE, TWO):
        opt_out_views.stop(database, phone, None, "=told us", "operator")
    opt_out_views.lift(database, TWO, None, None, "operator")
    content = visitor.client.get("/opt-outs.csv").text
    title, *rows = csv.reader(io.StringIO(content.removeprefix("\ufeff")))
    assert tuple(title) == COLUMNS
    found = [dict(zip(title, row, strict=True)) for row in rows]
    assert [(one["phone"], one["action"], one["in_force"]) for one in found] == [
        (TWO, "lift", "false"),
        (TWO, "stop", "false"),
        (ONE, "stop", "true"),
    ]
    assert found[-1]["detail"] == "'=told us"
    opt_out_views.lift(database, ONE, None, None, "operator")
    assert in_force(database) == set()
    assert "1 are not texted any more" in take_in(visitor, content)
    assert in_force(database) == {ONE}


def test_a_row_that_cannot_be_used_is_named_by_its_line(visitor: Visitor, database: Database) -> None:
    page = take_in(visitor, f"phone\n{ONE}\n12\n{THREE}\n")
    assert "2 are not texted any more" in page
    assert "1 row could not be used" in page
    assert '<td class="number">3</td>' in page
    assert in_force(database) == {ONE, THREE}


def test_without_a_file_nothing_is_taken_in(visitor: Visitor) -> None:
    assert visitor.post("/opt-outs", "/opt-outs/import").status_code == 400


def test_a_file_is_offered_to_admins_alone(app: OpenAPI, database: Database) -> None:
    add(database, "sam", "sender")
    visitor = Visitor(app)
    visitor.log_in("sam", PASSWORD)
    page = visitor.client.get("/opt-outs").text
    assert ("/opt-outs.csv" in page, "/opt-outs/import" in page) == (True, False)
