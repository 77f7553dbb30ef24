from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask_openapi.openapi import OpenAPI

from messaging.callbacks.receive import LARGEST_BODY_BYTES
from tests.support.web import TOKEN, Caller

ALICE = "+254711000001"
INBOUND = {"from": ALICE, "to": "20880", "text": "Hello?", "id": "inbound-1", "linkId": ""}
REPORT = {"id": "ATXid_1_0", "status": "Success", "phoneNumber": ALICE, "networkCode": "63902"}
OPT_OUT = {"senderId": "CLINIC", "phoneNumber": ALICE}
SUBSCRIPTION = {"phoneNumber": ALICE, "shortCode": "20880", "keyword": "news", "updateType": "addition"}

ROUTES = [
    ("/sms/twoway", "inbound", INBOUND, "GOOD"),
    ("/sms/delivery-reports", "report", REPORT, "OK"),
    ("/sms/opt-out", "opt_out", OPT_OUT, "OK"),
    ("/sms/subscription", "subscription", SUBSCRIPTION, "OK"),
]


@pytest.mark.parametrize(("route", "kind", "fields", "word"), ROUTES)
def test_a_callback_is_acknowledged_and_journaled(
    caller: Caller, route: str, kind: str, fields: dict[str, str], word: str
) -> None:
    answer = caller.callback(route, fields)

    assert (answer.status_code, answer.text, answer.mimetype) == (200, word, "text/plain")
    (entry,) = caller.callbacks()
    outcome = "received" if kind == "report" else "applied"
    assert (entry["kind"], entry["outcome"], entry["count"]) == (kind, outcome, 1)
    assert "phoneNumber=%2B254711000001" in entry["body"] or "from=%2B254711000001" in entry["body"]


@pytest.mark.parametrize("written", ["{}/", "/{}", "/{}/", "//{}//"])
@pytest.mark.parametrize(("route", "kind", "fields", "word"), ROUTES)
def test_a_slash_too_many_loses_no_callback(
    app: OpenAPI, caller: Caller, route: str, kind: str, fields: dict[str, str], word: str, written: str
) -> None:
    # The client itself would take what follows two slashes for a host.
    as_sent = {"PATH_INFO": written.format(route)}
    answer = app.test_client().post(
        route, query_string={"token": TOKEN}, data=fields, environ_overrides=as_sent
    )

    assert (answer.status_code, answer.text) == (200, word)
    assert [entry["kind"] for entry in caller.callbacks()] == [kind]


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("/sms/twoway", INBOUND | {"id": f"inbox:{number}"})
        for number in ("9223372036854775807", "9223372036854775808", "99999999999999999999")
    ]
    + [
        ("/sms/opt-out", OPT_OUT | {"senderId": sender})
        for sender in ("ß" * 20, "\ufb03" * 32, "x" * 32, "+", "\u0149" * 32)
    ],
)
def test_a_value_that_no_column_holds_as_it_is_still_takes_effect(
    caller: Caller, route: str, fields: dict[str, str]
) -> None:
    answer = caller.callback(route, fields)

    assert answer.status_code == 200
    assert [entry["outcome"] for entry in caller.callbacks()] == ["applied"]


@pytest.mark.parametrize(("route", "kind", "fields", "word"), ROUTES)
def test_a_body_without_what_it_needs_is_quarantined_and_acknowledged(
    caller: Caller, route: str, kind: str, fields: dict[str, str], word: str
) -> None:
    answer = caller.callback(route, {"date": "2026-11-24"})

    assert (answer.status_code, answer.text) == (200, word)
    (entry,) = caller.callbacks(outcome="quarantined")
    assert (entry["kind"], entry["body"]) == (kind, "date=2026-11-24")


@pytest.mark.parametrize("body", [b"", b"\xff\xfe\x00", b'{"id": "x"}', b"&&&=&", b"a=1&" * 50_000])
@pytest.mark.parametrize(("route", "word"), [(route, word) for route, _, _, word in ROUTES])
def test_whatever_the_body_is_it_is_kept(caller: Caller, route: str, word: str, body: bytes) -> None:
    answer = caller.callback(route, body)
    assert (answer.status_code, answer.text) == (200, word)
    assert [entry["outcome"] for entry in caller.callbacks()] == ["quarantined"]


def test_a_body_longer_than_any_is_cut_and_quarantined(caller: Caller) -> None:
    answer = caller.callback("/sms/twoway", b"text=" + b"a" * 3_000_000)
    assert answer.status_code == 200
    (entry,) = caller.callbacks()
    assert (entry["outcome"], len(entry["body"])) == ("quarantined", LARGEST_BODY_BYTES)


def test_a_body_that_is_not_utf8_is_shown_in_base64(caller: Caller) -> None:
    caller.callback("/sms/subscription", b"\xff")
    (entry,) = caller.callbacks()
    assert (entry["body"], entry["body_base64"]) == (None, "/w==")


def test_a_burst_of_one_body_is_one_entry_and_one_reply(caller: Caller) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: caller.callback("/sms/twoway", INBOUND), range(24)))

    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "GOOD")}
    (entry,) = caller.callbacks()
    assert entry["count"] == 24
    assert [message["origin"] for message in caller.messages()] == ["reply"]


def test_a_report_moves_the_message_that_a_trigger_sent(caller: Caller) -> None:
    caller.get("/sms/invoke-bulk-sms", phone=ALICE)
    (message,) = caller.messages()

    caller.callback("/sms/delivery-reports", REPORT | {"id": message["provider_message_id"]})
    assert caller.message(message["id"])["status"] == "accepted"
    caller.apply_reports()

    found = caller.message(message["id"])
    assert (found["status"], found["network"]) == ("delivered", "Safaricom")
    assert [(step["status"], step["source"]) for step in found["history"]] == [
        ("queued", "trigger"),
        ("sending", "trigger"),
        ("accepted", "provider"),
        ("delivered", "report"),
    ]


WORDS = ("Success", "Sent", "Teleported")


def test_a_report_that_came_twice_and_one_of_an_unknown_word_stay_in_the_history(caller: Caller) -> None:
    caller.get("/sms/invoke-bulk-sms", phone=ALICE)
    (message,) = caller.messages()
    for status in WORDS:
        fields = {"id": message["provider_message_id"], "status": status}
        assert caller.callback("/sms/delivery-reports", fields).status_code == 200
    caller.apply_reports()

    history = caller.message(message["id"])["history"]

    assert [step["detail"] for step in history[3:]] == [
        "Success",
        "Sent (ignored)",
        "Teleported (unknown_word)",
    ]
    assert [step["status"] for step in history[3:]] == ["delivered", None, None]
    bodies = {one["id"]: one["body"] for one in caller.callbacks()}
    assert [
        f"status={word}" in bodies[step["callback_id"]] for step, word in zip(history[3:], WORDS, strict=True)
    ] == [True] * 3
    assert not any("callback_id" in step for step in history[:3])


def test_each_change_names_the_callback_that_said_it_whatever_order_they_came_in(caller: Caller) -> None:
    caller.get("/sms/invoke-bulk-sms", phone=ALICE)
    (message,) = caller.messages()
    about = {"id": message["provider_message_id"], "phoneNumber": ALICE}
    for word in ({"status": "Failed", "failureReason": "UserAbsent"}, {"status": "Success"}):
        assert caller.callback("/sms/delivery-reports", about | word).status_code == 200
    caller.apply_reports()
    changes = [step for step in caller.message(message["id"])["history"] if step["source"] == "report"]
    assert [step["status"] for step in changes] == ["failed", "delivered"]
    bodies = {one["id"]: one["body"] for one in caller.callbacks()}
    assert [
        "status=Failed" in bodies[changes[0]["callback_id"]],
        "status=Success" in bodies[changes[1]["callback_id"]],
    ] == [
        True,
        True,
    ]


def test_an_opt_out_stops_the_next_trigger(caller: Caller) -> None:
    caller.callback("/sms/twoway", INBOUND | {"text": "STOP"})
    answer = caller.get("/sms/invoke-bulk-sms", phone=ALICE)
    assert (answer.status_code, answer.json and answer.json["code"]) == (403, "opted_out")


def test_the_journal_is_read_by_kind_and_in_pages(caller: Caller) -> None:
    for number in range(5):
        caller.callback("/sms/twoway", INBOUND | {"id": f"inbound-{number}"})
        caller.callback("/sms/subscription", SUBSCRIPTION | {"keyword": f"news-{number}"})

    first = caller.get("/v1/callbacks", kind="inbound", limit=3).json
    assert first is not None
    rest = caller.get("/v1/callbacks", kind="inbound", limit=3, cursor=first["next_cursor"]).json
    assert rest is not None

    bodies = [entry["body"] for entry in first["items"] + rest["items"]]
    assert [f"inbound-{number}" in body for number, body in zip(range(4, -1, -1), bodies, strict=True)] == [
        True
    ] * 5
    assert rest["next_cursor"] is None
    assert len(caller.callbacks()) == 10


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"kind": "nonsense"}, "kind"),
        ({"outcome": "nonsense"}, "outcome"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "!"}, "cursor"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_query_that_makes_no_sense_is_named(caller: Caller, query: dict[str, Any], field: str) -> None:
    answer = caller.get("/v1/callbacks", **query)
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["error"]["field"] == field


def test_the_simulator_is_told_which_reports_have_taken_effect(caller: Caller) -> None:
    caller.get("/sms/invoke-bulk-sms", phone=ALICE)
    known = caller.messages()[0]["provider_message_id"]
    for provider_id in (known, "ATXid_nobodys"):
        caller.callback("/sms/delivery-reports", {"id": provider_id, "status": "Success"})
    asked = {"token": TOKEN, "id": [known, "ATXid_nobodys", "ATXid_never_reported"]}
    assert caller.get("/sms/delivery-reports", **asked).json == {"applied": []}
    caller.apply_reports()
    told = caller.get("/sms/delivery-reports", **asked).json
    assert told is not None
    assert {(one["id"], one["status"]) for one in told["applied"]} == {
        (known, "Success"),
        ("ATXid_nobodys", "Success"),
    }
    assert caller.get("/sms/delivery-reports", token=TOKEN, id=["x"] * 101).status_code == 400
