"""Without a consent nothing leaves, whatever door asks for the text; whoever agreed gets it by the same call."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI

from messaging import statuses
from messaging.batches.importer import import_next
from messaging.consent import consents
from messaging.sending.sender import MessageSender
from messaging.storage import tables
from messaging.storage.database import Database
from tests.routes.conftest import MakeApp
from tests.routes.dashboard.test_access_pages import FIRST, Visitor
from tests.support import delivery
from tests.support.fake_provider import FakeProvider
from tests.support.web import API_KEY, Caller
from utils.reasons import NO_CONSENT
from utils.sms_utils import ProviderClient

AGREED, DID_NOT = "+254711000001", "+254711000002"
BOTH = (AGREED, DID_NOT)

Door = Callable[[OpenAPI, Database], None]


@pytest.fixture
def app(make_app: MakeApp) -> OpenAPI:
    return make_app(
        require_consent=True,
        reply_template="",
        dashboard_password=FIRST,
        secret_key="a-key-that-signs-cookies",
    )


def accepted(answer: Any, status: int = 202) -> None:
    assert answer.status_code == status, answer.text


def by_call(app: OpenAPI, _database: Database) -> None:
    accepted(Caller(app).post("/v1/messages", {"to": list(BOTH), "text": "Hello"}))


def by_calls_for_one_each(app: OpenAPI, _database: Database) -> None:
    for phone in BOTH:
        accepted(Caller(app).post("/v1/messages", {"to": phone, "text": "Hello"}))


def by_file(app: OpenAPI, _database: Database) -> None:
    form = {"text": "Hello", "file": (io.BytesIO("\n".join(["phone", *BOTH]).encode()), "people.csv")}
    key = {"Authorization": f"Bearer {API_KEY}"}
    accepted(app.test_client().post("/v1/batches", data=form, headers=key))


def by_page(app: OpenAPI, _database: Database) -> None:
    visitor = Visitor(app)
    visitor.log_in("admin", FIRST)
    accepted(visitor.post("/sends/new", numbers="\n".join(BOTH), text="Hello"), 303)


def by_trigger(app: OpenAPI, _database: Database) -> None:
    accepted(Caller(app).get("/sms/invoke-bulk-sms", phone=list(BOTH), message="Hello"), 200)


def by_answer_in_a_conversation(app: OpenAPI, _database: Database) -> None:
    caller = Caller(app)
    for phone in BOTH:
        said = {"from": phone, "to": "20880", "text": "Are you there?", "id": f"in-{phone}"}
        accepted(caller.callback("/sms/twoway", said), 200)
        accepted(caller.post(f"/v1/conversations/{phone}/messages", {"text": "Hello"}))


def by_resend(app: OpenAPI, database: Database) -> None:
    for message_id in delivery.queue(database, *BOTH):
        delivery.change(database, tables.messages, message_id, status=statuses.UNKNOWN, reason="read_timeout")
        accepted(Caller(app).post(f"/v1/messages/{message_id}/resend"))


def by_release(app: OpenAPI, database: Database) -> None:
    for message_id in delivery.queue(database, *BOTH):
        delivery.change(database, tables.messages, message_id, status=statuses.HELD, reason="daily_limit")
        accepted(Caller(app).post(f"/v1/held/message:{message_id}/release"), 200)


@pytest.mark.parametrize(
    "door",
    [
        *(by_call, by_calls_for_one_each, by_file, by_page, by_trigger),
        *(by_answer_in_a_conversation, by_resend, by_release),
    ],
    ids=lambda door: door.__name__,
)
def test_only_who_agreed_is_texted(
    app: OpenAPI, database: Database, provider: FakeProvider, door: Door
) -> None:
    consents.give(database, AGREED, None, consents.Terms("form"))
    door(app, database)
    settings = app.extensions["sms"].settings
    while import_next(database, settings, lambda: False):
        pass
    client = ProviderClient.from_settings(settings)
    MessageSender(settings, database, client).run_until_idle()
    client.close()
    assert [post["to"] for post in provider.posts] == [AGREED]
    newest = delivery.every(database, tables.messages)
    theirs = [(row.status, row.reason) for row in newest if row.recipient == DID_NOT]
    assert theirs[-1] == (statuses.BLOCKED, NO_CONSENT)
