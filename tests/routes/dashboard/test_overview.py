"""The first page: who wrote, who opted out and what waits, each a link to a list of so many."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta

import pytest
from flask_openapi.openapi import OpenAPI
from sqlalchemy import update

from messaging.consent import views as opt_out_views
from messaging.operations import recent
from messaging.storage import tables
from messaging.storage.database import Database
from tests.routes.dashboard.test_access_pages import PASSWORD, Visitor, add, happen
from tests.support import delivery
from tests.support.web import Caller

OLD = datetime.now(UTC) - timedelta(days=9)


def says(caller: Caller, number: int, text: str = "Hello") -> None:
    said = {"from": delivery.phone(number), "to": "20880", "text": text, "id": f"in-{number}-{text}"}
    assert caller.callback("/sms/twoway", said).status_code == 200


def figure(page: str, words: str) -> tuple[str | None, str]:
    """Where it leads, and what it says."""
    found = re.search(rf'<dt>{words}</dt><dd[^>]*>(?:<a href="([^"]*)">)?([^<]*)<', page)
    assert found is not None, words
    return html.unescape(found[1]) if found[1] else None, found[2]


def test_people_who_wrote_opt_outs_and_the_queue_are_counted_and_listed(
    visitor: Visitor, database: Database, caller: Caller
) -> None:
    # Ids rise with time: the old ones come first.
    for number in (4, 1, 2, 3):
        says(caller, number)
    says(caller, 1, "Hello again")
    with database.write() as connection:
        # One of them wrote only long ago.
        connection.execute(
            update(tables.inbound_messages)
            .where(tables.inbound_messages.c.sender == delivery.phone(4))
            .values(received_at=OLD)
        )
        of_one = tables.conversations.c.phone == delivery.phone(4)
        connection.execute(update(tables.conversations).where(of_one).values(last_at=OLD))
    for number in (8, 7):
        opt_out_views.stop(database, delivery.phone(number), None, "told us", "operator")
    opt_out_views.lift(database, delivery.phone(7), None, None, "operator")
    with database.write() as connection:
        of_one = tables.opt_outs.c.phone == delivery.phone(8)
        connection.execute(update(tables.opt_outs).where(of_one).values(at=OLD))
    says(caller, 2, "STOP")
    delivery.queue(database, *delivery.phones(3))
    happen(database, (1, "accepted"))
    page = visitor.client.get("/").text
    wrote, opted_out, queued = (
        figure(page, words) for words in ("People who wrote", "Opted out", "Waiting to be sent")
    )
    assert (wrote[1], opted_out[1]) == ("3", "2")
    assert len(re.findall(r'<li><a href="/conversations/', visitor.client.get(str(wrote[0])).text)) == 3
    listed = visitor.client.get(str(opted_out[0])).text
    assert len(re.findall(r"<td>stop</td>", listed)) == 2
    assert "<td>lifted</td>" not in listed
    listed = visitor.client.get(str(queued[0])).text
    assert len(re.findall(r'<td><a href="/messages/\d+"', listed)) == int(queued[1]) > 0


def test_nobody_counts_a_million_for_a_page(
    database: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 4):
        says(caller, number)
    monkeypatch.setattr(recent, "MOST_COUNTED", 2)
    assert recent.recent(database, OLD).wrote == 2


def test_who_may_not_read_conversations_is_not_led_to_them(
    app: OpenAPI, database: Database, caller: Caller
) -> None:
    says(caller, 1)
    delivery.queue(database, delivery.phone(2))
    happen(database, (1, "accepted"))
    add(database, "vera", "viewer")
    visitor = Visitor(app)
    visitor.log_in("vera", PASSWORD)
    assert figure(visitor.client.get("/").text, "People who wrote") == (None, "1")


def test_what_is_unread_stands_first(visitor: Visitor, caller: Caller) -> None:
    for number in (1, 2, 3):
        says(caller, number)
    for number in (2, 3):
        path = f"/conversations/{delivery.phone(number)}"
        visitor.post(path, f"{path}/read")
    says(caller, 3, "Again")
    path = f"/conversations/{delivery.phone(3)}"
    visitor.post(path, f"{path}/read")
    page = visitor.client.get("/conversations").text
    order = re.findall(r'<li><a href="/conversations/[^"]*?(\d+)"', page)
    assert [f"+{one}" for one in order] == [delivery.phone(one) for one in (1, 3, 2)]


def test_a_day_that_is_none_is_a_page_with_a_sentence(visitor: Visitor) -> None:
    for path in ("/conversations", "/opt-outs"):
        refused = visitor.client.get(path, query_string={"since": "soon"})
        assert (refused.status_code, "is not a time" in refused.text) == (400, True)
