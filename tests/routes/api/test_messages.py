from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from flask_openapi.openapi import OpenAPI
from sqlalchemy import insert, update

from messaging import statuses
from messaging.messages import search
from messaging.messages.queue import NewMessage, enqueue
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from routes.api.models import CallbackKind, CallbackOutcome, Status
from tests.routes.conftest import MakeApp
from tests.support.web import Caller

ALICE, BOB = "+254711000001", "+254711000002"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def put(database: Database, *new: NewMessage, **values: Any) -> list[int]:
    with database.write() as connection:
        ids = list(enqueue(connection, new))
        if values:
            connection.execute(update(tables.messages).where(tables.messages.c.id.in_(ids)).values(**values))
    return ids


def listed(caller: Caller, **query: Any) -> list[int]:
    return [item["id"] for item in caller.messages(**query)]


def test_the_newest_message_comes_first(caller: Caller, database: Database) -> None:
    ids = put(database, *(NewMessage(ALICE, f"text {number}") for number in range(5)))
    assert listed(caller) == ids[::-1]


def test_pages_follow_each_other_without_gap_or_repeat_while_new_messages_come(
    caller: Caller, database: Database
) -> None:
    ids = put(database, *(NewMessage(ALICE, f"text {number}") for number in range(7)))
    seen, cursor = [], None
    while True:
        answer = caller.get("/v1/messages", limit=3, **({"cursor": cursor} if cursor else {})).json
        assert answer is not None
        seen += [item["id"] for item in answer["items"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
        put(database, NewMessage(BOB, "meanwhile"))
    assert seen == ids[::-1]


def test_a_full_last_page_has_no_next_one(caller: Caller, database: Database) -> None:
    put(database, *(NewMessage(ALICE, "text") for _ in range(3)))
    answer = caller.get("/v1/messages", limit=3).json
    assert answer is not None
    assert (len(answer["items"]), answer["next_cursor"]) == (3, None)


@pytest.mark.parametrize(
    "typed", [ALICE, "254711000001", "%2B254711000001", "+254 711-000 001", "00254711000001"]
)
def test_messages_are_found_by_recipient_however_it_is_typed(
    caller: Caller, database: Database, typed: str
) -> None:
    wanted = put(database, NewMessage(ALICE, "for Alice"))
    put(database, NewMessage(BOB, "for Bob"))
    answer = caller.get(f"/v1/messages?to={typed}")
    assert answer.json is not None
    assert [item["id"] for item in answer.json["items"]] == wanted


def test_with_a_default_region_a_local_number_is_found(make_app: MakeApp, database: Database) -> None:
    wanted = put(database, NewMessage(ALICE, "for Alice"))
    assert listed(Caller(make_app(default_region="KE")), to="0711000001") == wanted


@pytest.mark.parametrize("status", statuses.ALL)
def test_messages_are_found_by_status(caller: Caller, database: Database, status: str) -> None:
    wanted = put(database, NewMessage(ALICE, "one"), status=status)
    other = "queued" if status != "queued" else "failed"
    put(database, NewMessage(ALICE, "another"), status=other)
    assert listed(caller, status=status) == wanted


def test_messages_are_found_by_batch(caller: Caller, database: Database) -> None:
    with database.write() as connection:
        row = {"id": 1, "status": "sending", "created_at": NOON}
        connection.execute(insert(tables.batches), [row, row | {"id": 2}])
    wanted = put(database, NewMessage(ALICE, "one", batch_id=2), NewMessage(BOB, "two", batch_id=2))
    put(database, NewMessage(ALICE, "other", batch_id=1), NewMessage(ALICE, "single"))
    assert listed(caller, batch_id=2) == wanted[::-1]


@pytest.mark.parametrize("words", ["opens", "CLINIC", "at 100%", "a_b", "ä"])
def test_messages_are_found_by_a_part_of_their_text(caller: Caller, database: Database, words: str) -> None:
    wanted = put(database, NewMessage(ALICE, "The clinic opens at 100% a_b ä"))
    put(database, NewMessage(ALICE, "The clnc is shut at 100 aXb"))
    assert listed(caller, q=words) == wanted


@pytest.fixture
def days(database: Database) -> list[int]:
    """Twenty messages, one each day at noon, the last on the 20th; ids with gaps."""
    ids = []
    for day in range(1, 21):
        created_at = datetime(2026, 11, day, 12, tzinfo=UTC)
        ids += put(database, NewMessage(ALICE, f"day {day}"), created_at=created_at)
    return ids


@pytest.mark.parametrize(
    ("query", "days_found"),
    [
        ({"since": "2026-11-18T12:00:00Z"}, [20, 19, 18]),
        ({"since": "2026-11-18T12:00:00.001Z"}, [20, 19]),
        ({"until": "2026-11-03T12:00:00Z"}, [2, 1]),
        ({"since": "2026-11-04", "until": "2026-11-06"}, [5, 4]),
        ({"since": "2026-11-18T15:00:00+03:00"}, [20, 19, 18]),
        ({"since": "2026-11-18T15:00:00 03:00"}, [20, 19, 18]),
        ({"since": "2026-11-18T12:00"}, [20, 19, 18]),
        ({"since": "2030-01-01"}, []),
        ({"until": "1900-01-01T00:00:00Z"}, []),
        ({"since": "0001-01-01T00:00:00+14:00", "until": "9999-12-31T23:59:59-14:00", "limit": 1}, [20]),
        ({"since": "2026-11-10", "until": "2026-11-01"}, []),
    ],
)
def test_messages_are_found_by_the_time_of_their_making(
    caller: Caller, days: list[int], query: dict[str, Any], days_found: list[int]
) -> None:
    assert listed(caller, **query) == [days[day - 1] for day in days_found]


def test_filters_are_taken_together(caller: Caller, database: Database) -> None:
    wanted = put(database, NewMessage(ALICE, "invoice 7"), status="failed")
    put(database, NewMessage(BOB, "invoice 7"), status="failed")
    put(database, NewMessage(ALICE, "invoice 8"), status="failed")
    put(database, NewMessage(ALICE, "invoice 7"), status="delivered")
    assert listed(caller, to=ALICE, status="failed", q="invoice 7", since="2020-01-01") == wanted


def test_a_filter_left_blank_is_no_filter(caller: Caller, database: Database) -> None:
    ids = put(database, NewMessage(ALICE, "text"))
    blank = dict.fromkeys(("to", "status", "batch_id", "since", "until", "q", "cursor", "limit"), "")
    assert listed(caller, **blank) == ids


BAD = [
    ({"to": "hello"}, "invalid_phone", "to"),
    ({"to": "0711000001"}, "invalid_phone", "to"),
    ({"to": "+254711000001\x00"}, "invalid_request", "to"),
    ({"status": "sleeping"}, "invalid_request", "status"),
    ({"batch_id": "x"}, "invalid_request", "batch_id"),
    ({"batch_id": "0"}, "invalid_request", "batch_id"),
    ({"batch_id": str(2**63)}, "invalid_request", "batch_id"),
    ({"since": "yesterday"}, "invalid_request", "since"),
    ({"until": "2026-13-01"}, "invalid_request", "until"),
    ({"until": "2026-02-30T00:00:00Z"}, "invalid_request", "until"),
    ({"q": "a\x00b"}, "invalid_request", "q"),
    ({"q": "a" * 1601}, "invalid_request", "q"),
    ({"limit": "-1"}, "invalid_request", "limit"),
    ({"limit": "1.5"}, "invalid_request", "limit"),
    ({"cursor": "zz"}, "invalid_cursor", "cursor"),
    ({"cursor": "MA=="}, "invalid_cursor", "cursor"),
    ({"cursor": "LTE="}, "invalid_cursor", "cursor"),
    ({"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"}, "invalid_cursor", "cursor"),
    ({"cursor": "é"}, "invalid_cursor", "cursor"),
    ({"statuss": "failed"}, "invalid_request", "statuss"),
]


@pytest.mark.parametrize(("query", "code", "field"), BAD)
def test_a_filter_that_cannot_be_used_is_named(
    caller: Caller, query: dict[str, Any], code: str, field: str
) -> None:
    answer = caller.get("/v1/messages", **query)
    assert answer.status_code == 400
    assert answer.json is not None
    assert (answer.json["error"]["code"], answer.json["error"]["field"]) == (code, field)
    assert answer.json["error"]["message"]


def test_all_that_is_wrong_is_told_at_once(caller: Caller) -> None:
    answer = caller.get("/v1/messages", status="sleeping", limit="0").json
    assert answer is not None
    assert {one["field"] for one in answer["error"]["details"]["errors"]} == {"status", "limit"}


def test_a_message_is_shown_as_the_contract_has_it(caller: Caller, database: Database) -> None:
    new = NewMessage(ALICE, "Hello", "CLINIC", estimated_parts=1)
    (message_id,) = put(
        database,
        new,
        status="failed",
        reason="inactive_user",
        provider_message_id="ATXid_1",
        cost_text="KES 0.8000",
        parts=1,
        network="63902",
        created_at=NOON,
        sent_at=NOON + timedelta(seconds=1),
        finished_at=NOON + timedelta(minutes=1),
    )
    found = caller.message(message_id)
    assert found.pop("history")
    assert found == {
        "id": message_id,
        "batch_id": None,
        "to": ALICE,
        "reference": None,
        "text": "Hello",
        "sender_id": "CLINIC",
        "origin": "api",
        "status": "failed",
        "reason": "inactive_user",
        "explanation": "The number is inactive, or the phone is off",
        "remedy": "Try again later",
        "provider_message_id": "ATXid_1",
        "cost": {"amount": "0.8000", "currency": "KES"},
        "parts": 1,
        "estimated_parts": 1,
        "network": "Safaricom",
        "inbound_id": None,
        "resend_of": None,
        "created_by": None,
        "request_id": None,
        "created_at": "2026-11-20T12:00:00.000Z",
        "sent_at": "2026-11-20T12:00:01.000Z",
        "finished_at": "2026-11-20T12:01:00.000Z",
    }


def test_the_list_shows_the_same_without_the_history(caller: Caller, database: Database) -> None:
    (message_id,) = put(database, NewMessage(ALICE, "Hello"))
    (item,) = caller.messages()
    assert item == {name: value for name, value in caller.message(message_id).items() if name != "history"}
    assert not {"reason", "explanation", "remedy", "history"} & item.keys()


@pytest.mark.parametrize(
    ("as_billed", "shown"),
    [
        ("KES 0.8000", {"amount": "0.8000", "currency": "KES"}),
        ("UGX -14.5731", {"amount": "-14.5731", "currency": "UGX"}),
        ("0", {"amount": "0", "currency": None}),
        ("free of charge", None),
        (None, None),
    ],
)
def test_money_is_shown_as_the_provider_wrote_it(
    caller: Caller, database: Database, as_billed: str | None, shown: dict[str, str] | None
) -> None:
    put(database, NewMessage(ALICE, "Hello"), cost_text=as_billed)
    assert caller.messages()[0]["cost"] == shown


@pytest.mark.parametrize(
    ("status", "reason", "remedy"),
    [
        ("queued", "insufficient_balance", "Top up the Africa's Talking account, then resume sending"),
        ("rejected", "opted_out", "Only the recipient can lift this: on Safaricom by dialling *456*9#"),
        (
            "blocked",
            "opted_out",
            "Where the recipient asks for texts again, lift the opt-out: sms opt-outs lift",
        ),
        ("cancelled", "batch_cancelled", None),
        ("failed", "never heard of", None),
    ],
)
def test_a_reason_comes_with_what_to_do_where_that_is_known(
    caller: Caller, database: Database, status: str, reason: str, remedy: str | None
) -> None:
    put(database, NewMessage(ALICE, "Hello"), status=status, reason=reason)
    (item,) = caller.messages()
    assert (item["reason"], item.get("remedy")) == (reason, remedy)


def test_an_unknown_network_is_shown_by_its_code(caller: Caller, database: Database) -> None:
    put(database, NewMessage(ALICE, "Hello"), network="12345")
    assert caller.messages()[0]["network"] == "12345"


def test_every_post_stands_in_the_history(caller: Caller, database: Database) -> None:
    (message_id,) = put(database, NewMessage(ALICE, "Hello"), created_at=NOON, attempt_id=8, status="unknown")
    with database.write() as connection:
        for number in (7, 8):
            posting_at = NOON + timedelta(minutes=number)
            row = {"id": number, "state": "recorded", "worker": "w", "message_count": 1, "claimed_at": NOON}
            row |= {"lease_until": NOON, "posting_at": posting_at}
            connection.execute(insert(tables.attempts), row)
            event = {"message_id": message_id, "source": "provider", "attempt_id": number}
            event |= {
                "at": posting_at + timedelta(seconds=9),
                "status": "queued" if number == 7 else "unknown",
            }
            connection.execute(insert(tables.message_events), event)

    history = caller.message(message_id)["history"]

    assert [(step["at"][14:19], step["status"], step["source"]) for step in history] == [
        ("00:00", "queued", "api"),
        ("07:00", "sending", "worker"),
        ("07:09", "queued", "provider"),
        ("08:00", "sending", "worker"),
        ("08:09", "unknown", "provider"),
    ]
    tried = [step["detail"] for step in history if step["status"] == "sending"]
    assert tried[0] == "posted to the provider, try 1 (attempt id 7)"
    assert tried[1].startswith("posted to the provider, try 2 (attempt id ")


def test_the_api_knows_every_status_and_every_kind_of_callback(app: OpenAPI) -> None:
    assert set(get_args(Status)) == set(statuses.ALL)
    assert set(get_args(CallbackKind)) == {"inbound", "report", "opt_out", "subscription", "fetched"}
    assert set(get_args(CallbackOutcome)) == {"received", "applied", "quarantined", "unapplied"}


def test_an_unknown_message_is_resent_by_a_person_and_only_once(caller: Caller, database: Database) -> None:
    (message_id,) = put(database, NewMessage(ALICE, "Hello"), status="unknown")
    first = caller.post(f"/v1/messages/{message_id}/resend")
    second = caller.post(f"/v1/messages/{message_id}/resend")
    assert (first.status_code, first.json) == (202, {"id": message_id + 1, "resend_of": message_id})
    assert (second.status_code, second.json["error"]["code"]) == (409, "not_unknown")


def test_a_message_is_found_by_words_of_its_text(caller: Caller, database: Database) -> None:
    first, second = put(database, NewMessage(ALICE, "School closes"), NewMessage(ALICE, "School opens"))
    with database.write() as connection:
        long_ago = wall_clock(connection) - timedelta(hours=1)
        connection.execute(update(tables.messages).values(created_at=long_ago))
    search.index_new(database)
    assert [one["id"] for one in caller.messages(text="school")] == [second, first]
    assert [one["id"] for one in caller.messages(text="closes SCHOOL", to=ALICE)] == [first]
    answer = caller.get("/v1/messages", text="?!")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "nothing_to_search")  # type: ignore[index]
    assert answer.json["error"]["field"] == "text"  # type: ignore[index]
