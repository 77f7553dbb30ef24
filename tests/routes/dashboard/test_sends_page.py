"""The pages of sends: how fast one leaves, and which rows of its file were refused."""

from __future__ import annotations

import re
from datetime import timedelta

from flask_openapi.openapi import OpenAPI
from sqlalchemy import insert

from messaging.messages import status_events
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from routes.dashboard.sends import FIRST_REFUSED
from tests.routes.dashboard.test_access_pages import PASSWORD, Visitor, add
from tests.support import delivery


def refuse(
    database: Database, batch_id: int, count: int, code: str = "invalid_phone", first: int = 2
) -> None:
    rows = [
        {
            "batch_id": batch_id,
            "line": first + one,
            "value": f"cell {one}",
            "code": code,
            "reason": "Too short",
        }
        for one in range(count)
    ]
    with database.write() as connection:
        connection.execute(insert(tables.refused_rows), rows)


def test_list_page_and_what_is_polled_tell_the_speed_where_it_is_known(
    visitor: Visitor, database: Database
) -> None:
    batch = delivery.queue_batch(database, delivery.phones(30))
    paths = ("/sends", f"/sends/{batch}", f"/sends/{batch}/progress")
    told = re.compile(r"[\d,]+ a minute, about \d+ s left")
    assert [told.findall(visitor.client.get(path).text) for path in paths] == [[], [], []]
    with database.write() as connection:
        at = wall_clock(connection) - timedelta(seconds=30)
        events = [status_events.Event(one, at, "accepted", "provider") for one in range(1, 16)]
        status_events.record(connection, events)
    for one in range(1, 16):
        delivery.change(database, tables.messages, one, status="accepted")
    assert [len(told.findall(visitor.client.get(path).text)) for path in paths] == [1, 1, 1]
    delivery.change(database, tables.batches, batch, status="paused")
    assert [told.findall(visitor.client.get(path).text) for path in paths] == [[], [], []]


def test_the_first_refused_rows_are_a_table_with_line_cell_and_reason(
    visitor: Visitor, database: Database
) -> None:
    batch = delivery.queue_batch(database, delivery.phones(1))
    assert "data-part" not in visitor.client.get(f"/sends/{batch}").text
    assert "No row of this send was refused" in visitor.client.get(f"/sends/{batch}/refused").text
    delivery.change(database, tables.batches, batch, refused=FIRST_REFUSED + 3, duplicates=1)
    assert "no longer kept" in visitor.client.get(f"/sends/{batch}/refused").text
    refuse(database, batch, 1, code="duplicate", first=1)
    refuse(database, batch, FIRST_REFUSED + 3)
    assert f'data-part="/sends/{batch}/refused"' in visitor.client.get(f"/sends/{batch}").text
    page = visitor.client.get(f"/sends/{batch}/refused").text
    lines = re.findall(r'<td class="number">(\d+)</td><td>(.*?)</td><td class="words">(.*?)</td>', page)
    assert lines == [(str(2 + one), f"cell {one}", "Too short") for one in range(FIRST_REFUSED)]
    assert f"The first {FIRST_REFUSED} are shown" in page
    assert re.search(rf'href="/sends/{batch}/refused.csv">All {FIRST_REFUSED + 3} as a file<', page)
    assert visitor.client.get("/sends/99/refused").status_code == 404


def test_who_only_looks_is_shown_no_cell_of_the_file(app: OpenAPI, database: Database) -> None:
    batch = delivery.queue_batch(database, delivery.phones(1))
    delivery.change(database, tables.batches, batch, refused=1)
    refuse(database, batch, 1)
    add(database, "vera", "viewer")
    visitor = Visitor(app)
    visitor.log_in("vera", PASSWORD)
    assert "refused" not in re.findall(r'data-part="[^"]*/(\w+)"', visitor.client.get(f"/sends/{batch}").text)
    assert visitor.client.get(f"/sends/{batch}/refused").status_code == 403
