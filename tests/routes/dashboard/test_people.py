"""The page of one person: what was sent, received, opted out and agreed to; forgetting; the way to the phone."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, unquote, unquote_plus, urlsplit

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.consent import consents
from messaging.storage import tables
from messaging.storage.database import Database
from routes.dashboard import people
from tests.routes.conftest import MakeApp
from tests.routes.dashboard.test_access_pages import FIRST, PASSWORD, Visitor, add
from tests.support import delivery
from tests.support.web import Caller

PHONE = delivery.phone(1)
PATH = f"/people/{PHONE}"


def test_the_page_of_a_person_shows_what_was_agreed_to_and_how_we_know(
    visitor: Visitor, database: Database
) -> None:
    terms = consents.Terms("signup form", wording="Send me offers", wording_version="3", evidence="form 12")
    consents.give(database, PHONE, "ACME", terms)
    consents.withdraw(database, PHONE, "ACME", consents.Terms("by phone"))
    page = visitor.client.get(PATH).text
    for words in ("agreed", "withdrew", "ACME", "Send me offers", "(3)", "signup form: form 12", "by phone"):
        assert words in page, words


def test_an_admin_forgets_a_person_once_sure(visitor: Visitor, database: Database, caller: Caller) -> None:
    delivery.queue(database, PHONE)
    consents.give(database, PHONE, None, consents.Terms("signup form"))
    unsure = visitor.post(PATH, f"{PATH}/forget")
    assert (unsure.status_code, "cannot be undone" in unsure.text) == (400, True)
    assert [one["to"] for one in caller.messages()] == [PHONE]
    done = visitor.post(PATH, f"{PATH}/forget", sure="1")
    assert (done.status_code, done.headers["Location"]) == (303, "/messages")
    assert "Erased: 1 messages" in visitor.client.get("/messages").text
    assert [one["to"] for one in caller.messages()] == [""]
    assert PHONE not in visitor.client.get("/consents?all=1").text
    assert (
        "Erased: nothing was there"
        in visitor.client.get(visitor.post(PATH, f"{PATH}/forget", sure="1").headers["Location"]).text
    )


def test_only_an_admin_is_offered_to_forget(app: OpenAPI, database: Database) -> None:
    add(database, "sam", "sender")
    visitor = Visitor(app)
    visitor.log_in("sam", PASSWORD)
    assert "/forget" not in visitor.client.get(PATH).text


@pytest.mark.parametrize("is_offline", [True, False])
def test_offline_and_only_there_a_message_and_its_person_lead_to_the_phone(
    make_app: MakeApp, database: Database, is_offline: bool
) -> None:
    (message_id,) = delivery.queue(database, PHONE)
    offline = {"at_username": None, "at_api_key": None, "api_keys": (), "webhook_tokens": ()}
    visitor = Visitor(
        make_app(**(offline if is_offline else {}), dashboard_password=FIRST, secret_key="a-key-of-cookies")
    )
    visitor.log_in("admin", FIRST)
    for path in (PATH, f"/messages/{message_id}"):
        page = visitor.client.get(path).text
        assert PHONE in page
        links = [urlsplit(one) for one in page.split('"') if "?find=" in one]
        found = [(one.hostname, parse_qs(one.query)["find"]) for one in links]
        assert found == [("127.0.0.1", [PHONE.removeprefix("+")])] * is_offline


def test_a_message_shows_the_callbacks_that_speak_of_it_without_numbers_to_who_may_not_see_them(
    app: OpenAPI, visitor: Visitor, database: Database, caller: Caller
) -> None:
    (message_id,) = delivery.queue(database, PHONE)
    delivery.change(database, tables.messages, message_id, status="accepted", provider_message_id="ATXid_7")
    said = {"id": "ATXid_7", "status": "Success", "phoneNumber": PHONE, "networkCode": "63902"}
    assert caller.callback("/sms/delivery-reports", said).status_code == 200
    caller.apply_reports()
    page = visitor.client.get(f"/messages/{message_id}").text
    assert "Callback 1, as it came" in page
    assert f"phoneNumber={quote(PHONE)}" in page
    add(database, "vera", "viewer")
    looking = Visitor(app)
    looking.log_in("vera", PASSWORD)
    shown = looking.client.get(f"/messages/{message_id}").text
    assert "status=Success" in shown
    assert "phoneNumber=+••••••••••••" in shown
    assert PHONE[1:] not in shown
    delivery.change(database, tables.callbacks, 1, body=b"")
    for one in (visitor, looking):
        assert '<code class="body">erased</code>' in one.client.get(f"/messages/{message_id}").text
    delivery.change(database, tables.callbacks, 1, body=b"\xff" + PHONE.encode())
    assert "not readable as text" in looking.client.get(f"/messages/{message_id}").text


def test_a_person_is_found_by_number_and_by_reference(visitor: Visitor, database: Database) -> None:
    other = delivery.phone(2)
    delivery.queue(database, PHONE, reference="visit 7")
    delivery.queue(database, PHONE, reference="visit 7")
    delivery.queue(database, PHONE, other, reference="family-3")
    delivery.queue(database, other, reference="0711000009")

    def led_to(typed: str) -> str:
        found = visitor.client.get("/people", query_string={"q": typed})
        assert found.status_code == 303
        return unquote(found.headers["Location"])

    assert led_to("visit 7") == PATH
    assert led_to(PHONE) == PATH
    assert led_to("0711000009") == f"/people/{other}"
    assert led_to("+254711000009") == "/people/+254711000009"
    shared = visitor.client.get("/people?q=family-3")
    page = visitor.client.get(shared.headers["Location"]).text
    assert PHONE in page
    assert other in page
    lost = visitor.client.get("/people?q=nobody")
    assert (lost.status_code, "no message has it as its reference" in lost.text) == (404, True)
    assert visitor.client.get("/people").status_code == 200
    assert 'href="/people"' in visitor.client.get(PATH).text


def test_a_reference_whose_person_was_erased_or_that_goes_on_leads_to_its_messages(
    visitor: Visitor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (message_id,) = delivery.queue(database, PHONE, reference="a b")
    delivery.change(database, tables.messages, message_id, recipient="")
    assert "reference:a b" in unquote_plus(visitor.client.get("/people?q=a+b").headers["Location"])
    monkeypatch.setattr(people, "PAGE", 1)
    delivery.queue(database, PHONE, PHONE, reference="many")
    assert "reference:many" in unquote_plus(visitor.client.get("/people?q=many").headers["Location"])
