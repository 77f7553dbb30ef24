from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.consent.ledger import record_stop
from messaging.storage.database import Database
from tests.routes.conftest import MakeApp
from tests.support.fake_provider import FakeProvider
from tests.support.web import API_KEY, Caller

ALICE, BOB, CAROL = "+254711000001", "+254711000002", "+254711000003"
BULK, TWOWAY = "/sms/invoke-bulk-sms", "/sms/invoke-twoway-sms"


def test_a_trigger_sends_now_and_answers_with_what_the_provider_said(
    caller: Caller, provider: FakeProvider
) -> None:
    answer = caller.get(BULK, phone="254711000001", message="Clinic opens at nine")

    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["message"] == f"SMS sent to {ALICE}"
    assert answer.json["response"]["SMSMessageData"]["Recipients"][0]["messageId"] == "ATXid_1_0"
    assert answer.headers["Cache-Control"] == "no-store"
    (post,) = provider.posts
    assert (post["to"], post["message"], post.get("from")) == (ALICE, "Clinic opens at nine", None)
    (message,) = caller.messages()
    assert (message["status"], message["to"], message["origin"]) == ("accepted", ALICE, "trigger")


@pytest.mark.parametrize(
    "query",
    [
        "phone=254711000001",
        "phone=%2B254711000001",
        "phone=+254711000001",
        "phone=%20254%20711-000%20001%20",
        "phone=00254711000001",
        "phone=254711000001&phone=%2B254711000001",
        "phone=,254711000001,",
    ],
)
def test_a_number_is_read_however_a_browser_passes_it_on(
    caller: Caller, provider: FakeProvider, query: str
) -> None:
    answer = caller.get(f"{BULK}?{query}")

    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    assert answer.json["message"] == f"SMS sent to {ALICE}"
    assert [post["to"] for post in provider.posts] == [ALICE]


@pytest.mark.parametrize(
    "query",
    [
        "phone=254711000001,254711000002,254711000003",
        "phone=+254711000001,+254711000002,+254711000003",
        "phone=254711000001&phone=254711000002,254711000003",
    ],
)
def test_several_numbers_share_one_post_and_are_counted(
    caller: Caller, provider: FakeProvider, query: str
) -> None:
    answer = caller.get(f"{BULK}?{query}")

    assert answer.json is not None
    assert answer.json["message"] == "SMS sent to 3 recipients"
    assert [post["to"].split(",") for post in provider.posts] == [[ALICE, BOB, CAROL]]


def test_the_message_has_a_default(caller: Caller, provider: FakeProvider) -> None:
    caller.get(BULK, phone=ALICE)
    assert provider.posts[0]["message"] == "Hello from Africa's Talking!"


def test_a_two_way_trigger_sends_from_the_shortcode(caller: Caller, provider: FakeProvider) -> None:
    assert caller.get(TWOWAY, phone=ALICE).status_code == 200
    assert provider.posts[0]["from"] == "20880"


def test_a_bulk_trigger_sends_from_the_bulk_sender(make_app: MakeApp, provider: FakeProvider) -> None:
    Caller(make_app(at_sender_id="CLINIC")).get(BULK, phone=ALICE)
    assert provider.posts[0]["from"] == "CLINIC"


BAD_QUERIES = [
    ("", "missing_phone"),
    ("phone=", "missing_phone"),
    ("phone=%20&phone=,", "missing_phone"),
    ("message=hello", "missing_phone"),
    ("phone=0711000001", "invalid_phone"),
    ("phone=hello", "invalid_phone"),
    ("phone=254711000001%0A254711000002", "invalid_phone"),
    ("phone=%2B254711000001/2", "invalid_phone"),
    ("phone=622000001", "invalid_phone"),
    ("phone=254311000001", "invalid_phone"),
    ("phone=%D9%A2%D9%A5%D9%A4711000001", "invalid_phone"),
    ("phone=" + "2547" * 7, "invalid_phone"),
    ("phone=254711000001,12", "invalid_phone"),
    ("phone=<script>alert(1)</script>", "invalid_phone"),
    ("phone=254711000001&message=", "empty_message"),
    ("phone=254711000001&message=%20%0A", "empty_message"),
    (f"phone=254711000001&message={'a' * 1601}", "text_too_long"),
    ("phone=254711000001&text=Hello", "unknown_parameter"),
    ("phone=254711000001&mesage=Hello", "unknown_parameter"),
    ("to=254711000001&message=Hello", "unknown_parameter"),
    ("phone=254711000001&message=a%00b", "invalid_input"),
    (f"phone=254711000001&idempotency_key={'k' * 300}", "invalid_input"),
]


@pytest.mark.parametrize(("query", "code"), BAD_QUERIES)
@pytest.mark.parametrize("route", [BULK, TWOWAY])
def test_bad_input_is_named_and_nothing_is_sent(
    caller: Caller, provider: FakeProvider, route: str, query: str, code: str
) -> None:
    answer = caller.get(f"{route}?{query}")

    assert answer.status_code == 400, answer.text
    assert answer.json is not None
    assert answer.json["code"] == code
    assert isinstance(answer.json["error"], str)
    assert answer.mimetype == "application/json"
    assert provider.posts == []
    assert caller.messages() == []


def test_a_missing_phone_has_the_cards_own_sentence(caller: Caller) -> None:
    assert caller.get(BULK).json == {"error": "Missing 'phone' query parameter", "code": "missing_phone"}


def test_the_number_that_cannot_be_used_is_named(caller: Caller) -> None:
    answer = caller.get(BULK, phone="254711000001,12345").json
    assert answer is not None
    assert answer["phone"] == "12345"
    assert "'12345'" in answer["error"]


def test_a_number_with_an_unknown_prefix_is_sent_to_with_a_warning(
    caller: Caller, provider: FakeProvider
) -> None:
    answer = caller.get(BULK, phone="+254311000001").json
    assert answer is not None
    assert len(provider.posts) == 1
    assert [warning["phone"] for warning in answer["warnings"]] == ["+254311000001"]


def test_the_refusal_of_a_local_number_names_the_setting_that_takes_it(caller: Caller) -> None:
    answer = caller.get(BULK, phone="0711000001").json
    assert answer is not None
    assert "DEFAULT_REGION" in answer["error"]


def test_a_trigger_takes_local_numbers_of_the_default_region(
    make_app: MakeApp, provider: FakeProvider
) -> None:
    Caller(make_app(default_region="KE")).get(f"{BULK}?phone=0711000001,711000002,+254711000003")
    assert provider.posts[0]["to"] == "+254711000001,+254711000002,+254711000003"


def test_a_raw_plus_is_believed(caller: Caller, provider: FakeProvider) -> None:
    caller.get(f"{BULK}?phone=+622000001")
    assert provider.posts[0]["to"] == "+622000001"


def test_a_two_way_trigger_without_a_shortcode_says_so(make_app: MakeApp, provider: FakeProvider) -> None:
    answer = Caller(make_app(at_shortcode=None)).get(TWOWAY, phone=ALICE)
    assert (answer.status_code, answer.json and answer.json["code"]) == (400, "missing_shortcode")
    assert provider.posts == []


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("route", [BULK, TWOWAY])
def test_only_a_get_sends(
    app: OpenAPI, caller: Caller, provider: FakeProvider, route: str, method: str
) -> None:
    answer = app.test_client().open(f"{route}?phone=254711000001&api_key={API_KEY}", method=method)

    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET"
    assert provider.posts == []
    assert caller.messages() == []


@pytest.mark.parametrize(
    "header",
    [
        {"Sec-Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch;prerender"},
        {"Purpose": "prefetch"},
        {"X-Purpose": "preview"},
        {"X-Moz": "prefetch"},
    ],
)
def test_a_browser_that_looks_ahead_sends_nothing(
    caller: Caller, provider: FakeProvider, header: dict[str, str]
) -> None:
    answer = caller.get(BULK, header, phone=ALICE)
    assert (answer.status_code, answer.json and answer.json["code"]) == (400, "prefetch_refused")
    assert provider.posts == []


def test_someone_who_opted_out_is_not_sent_to(
    caller: Caller, provider: FakeProvider, database: Database
) -> None:
    with database.write() as connection:
        record_stop(connection, ALICE, "all", None, "keyword")

    answer = caller.get(BULK, phone=ALICE)

    assert (answer.status_code, answer.json and answer.json["code"]) == (403, "opted_out")
    assert provider.posts == []
    assert [message["status"] for message in caller.messages()] == ["blocked"]


def test_those_who_opted_out_are_named_beside_those_who_were_sent_to(
    caller: Caller, provider: FakeProvider, database: Database
) -> None:
    with database.write() as connection:
        record_stop(connection, ALICE, "all", None, "keyword")

    answer = caller.get(BULK, phone=f"{ALICE},{BOB}").json

    assert answer is not None
    assert (answer["message"], answer["opted_out"]) == ("SMS sent to 1 of 2 recipients", [ALICE])
    assert [post["to"] for post in provider.posts] == [BOB]


def test_a_text_is_sent_in_the_spelling_that_costs_less(caller: Caller, provider: FakeProvider) -> None:
    assert caller.get(BULK, phone=ALICE, message="cafe\u0301").status_code == 200
    assert [post["message"] for post in provider.posts] == ["café"]
    assert [message["text"] for message in caller.messages()] == ["café"]


def test_one_accepted_recipient_makes_it_a_success(caller: Caller, provider: FakeProvider) -> None:
    provider.refused[ALICE] = (403, "InvalidPhoneNumber")
    answer = caller.get(BULK, phone=f"{ALICE},{BOB}")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["message"] == "SMS sent to 1 of 2 recipients"


def test_a_recipient_whom_the_provider_refused_is_answered_with_its_words(
    caller: Caller, provider: FakeProvider
) -> None:
    provider.refused[ALICE] = (403, "InvalidPhoneNumber")
    answer = caller.get(BULK, phone=ALICE)
    assert answer.status_code == 422
    assert answer.json is not None
    assert answer.json["code"] == "rejected"
    assert answer.json["response"]["SMSMessageData"]["Recipients"][0]["status"] == "InvalidPhoneNumber"


PROVIDER_TROUBLE = [
    (
        (201, "application/json", '{"SMSMessageData":{"Message":"InvalidSenderId","Recipients":[]}}'),
        422,
        "rejected",
    ),
    ((401, "text/plain", "The supplied authentication is invalid"), 502, "provider_refused"),
    ((400, "text/plain", "Request is missing required form field 'to'"), 502, "provider_refused"),
    ((429, "text/plain", "slow down"), 502, "provider_unavailable"),
    ((500, "text/html", "<html>"), 504, "outcome_unknown"),
    ((201, "text/html", "<html>"), 504, "outcome_unknown"),
    (
        (201, "application/json", '{"SMSMessageData":{"Message":"Sent","Recipients":[{}]}}'),
        504,
        "outcome_unknown",
    ),
]


@pytest.mark.parametrize(("said", "status", "code"), PROVIDER_TROUBLE)
def test_the_providers_trouble_has_a_code(
    caller: Caller, provider: FakeProvider, said: tuple[int, str, str], status: int, code: str
) -> None:
    provider.script.append(said)
    answer = caller.get(BULK, phone=ALICE)
    assert (answer.status_code, answer.json and answer.json["code"]) == (status, code), answer.text
    assert answer.json is not None
    assert len(answer.json["error"]) > 20
    (message,) = caller.messages()
    assert (message["status"] == "unknown") is (code == "outcome_unknown")


def test_a_provider_that_cannot_be_reached_is_unavailable(make_app: MakeApp, provider: FakeProvider) -> None:
    app = make_app()
    provider.close()
    answer = Caller(app).get(BULK, phone=ALICE)
    assert (answer.status_code, answer.json and answer.json["code"]) == (502, "provider_unavailable")
    assert answer.json is not None
    # Not the name of an exception's class, which would be a word for programmers.
    assert " " in answer.json["error"]
    assert Caller(app).messages()[0]["status"] == "failed"


def test_triggers_leave_half_of_the_threads_to_callbacks(make_app: MakeApp, provider: FakeProvider) -> None:
    caller = Caller(make_app(web_threads=2))
    provider.hold.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(caller.get, BULK, phone=ALICE)
        assert provider.arrived.acquire(timeout=10)
        second = caller.get(BULK, phone=BOB)
        provider.hold.set()

        assert first.result().status_code == 200
    assert (second.status_code, second.json and second.json["code"]) == (503, "busy")
    assert int(second.headers["Retry-After"]) > 0
    assert [post["to"] for post in provider.posts] == [ALICE]
    assert caller.get(BULK, phone=BOB).status_code == 200


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_refresh_with_the_same_key_does_not_send_again(
    caller: Caller, provider: FakeProvider, how: str
) -> None:
    headers = {"Idempotency-Key": "visit-7"} if how == "header" else None
    query: dict[str, Any] = {} if how == "header" else {"idempotency_key": "visit-7"}

    first, again = (caller.get(BULK, headers, phone=ALICE, **query) for _ in range(2))

    assert len(provider.posts) == 1
    assert first.json == again.json


def test_the_same_key_for_another_request_is_refused(caller: Caller, provider: FakeProvider) -> None:
    caller.get(BULK, phone=ALICE, idempotency_key="visit-7")
    answer = caller.get(BULK, phone=BOB, idempotency_key="visit-7")
    assert (answer.status_code, answer.json and answer.json["code"]) == (422, "idempotency_key_reused")
    assert len(provider.posts) == 1
