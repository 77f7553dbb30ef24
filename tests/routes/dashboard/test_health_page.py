"""The health page: pauses with a button to end them, workers by name, callback URLs with what came there."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.callbacks.receive import KINDS
from messaging.operations import counts, doctor, health, health_details
from messaging.sending import pauses
from messaging.storage.clocks import utc_now, wall_clock
from messaging.storage.database import Database
from tests.routes.dashboard.test_access_pages import PASSWORD, Visitor, add
from tests.support.web import Caller

RESUME = re.compile(r'action="(/health/resume[^"]*)"')


def paused(database: Database) -> set[str]:
    with database.read() as connection:
        return set(pauses.current(connection).names)


def pause(database: Database, reasons: Mapping[str, str]) -> None:
    with database.write() as connection:
        for name, reason in reasons.items():
            pauses.pause(connection, name, reason, None, wall_clock(connection))


def test_a_pause_is_shown_in_words_and_ended_by_an_admin(
    app: OpenAPI, visitor: Visitor, database: Database
) -> None:
    pause(database, {"sender:ACME": "invalid_sender_id", "sender:SHOP": "invalid_sender_id"})
    page = visitor.client.get("/health").text
    assert "What leaves as ACME, paused <time" in page
    acme, _shop = RESUME.findall(page)
    assert visitor.post("/health", acme).status_code == 303
    assert paused(database) == {"sender:SHOP"}
    pause(database, {"account": "credentials_refused"})
    page = visitor.client.get("/health").text
    assert "Everything, paused <time" in page
    add(database, "ann", "approver")
    other = Visitor(app)
    other.log_in("ann", PASSWORD)
    shown = other.client.get("/health").text
    assert ("Everything, paused <time" in shown, RESUME.findall(shown)) == (True, [])
    assert other.post("/health", "/health/resume").status_code == 403
    visitor.post("/health", RESUME.findall(page)[0])
    assert paused(database) == set()
    assert "Paused" not in visitor.client.get("/health").text


def test_workers_are_named(visitor: Visitor, database: Database) -> None:
    assert "None was seen within the last hour" in visitor.client.get("/health").text
    health.beat(database, "clinic:77:sender-1")
    page = visitor.client.get("/health").text
    (at, title, words) = re.findall(
        r'<li>clinic:77: last seen <time datetime="([^"]+)" title="([^"]+)">([^<]+)</time>', page
    )[0]
    assert (at[:4], title[:4], words) == (str(utc_now().year), at[:4], "less than a minute ago")


def test_each_callback_url_says_when_the_last_one_came(
    visitor: Visitor, database: Database, caller: Caller
) -> None:
    assert set(health_details.KINDS.values()) <= set(KINDS)
    assert visitor.client.get("/health").text.count("none has arrived yet") == 4
    said = {"from": "+254711000001", "to": "20880", "text": "Hello", "id": "in-1"}
    assert caller.callback("/sms/twoway", said).status_code == 200
    counts.fold(database)
    page = visitor.client.get("/health").text
    assert page.count("none has arrived yet") == 3
    twoway = page.partition("<dt>twoway</dt>")[2].partition("</dd>")[0]
    assert "last one <time" in twoway
    assert "ago</time>" in twoway


def test_what_cannot_be_asked_now_is_told_apart_from_what_needs_somebody(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        doctor.Finding("queue", True, "answers"),
        doctor.Finding("provider", False, "was not reached", is_unknown=True),
    ]
    monkeypatch.setattr(doctor, "examine", lambda _service: found)
    page = visitor.client.get("/health").text
    assert "1 could not be asked now." in page
    assert "All is well" not in page
    assert "somebody to act" not in page
    assert re.search(r"provider</th><td[^>]*><span[^>]*>\?</span> not known</td>", page)
    found.append(doctor.Finding("worker", False, "none seen lately"))
    page = visitor.client.get("/health").text
    assert "1 needs somebody to act." in page
    rows = re.findall(r'<th scope="row">([^<]+)</th>', page)
    assert rows == ["worker", "provider", "queue"]
