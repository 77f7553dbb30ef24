from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from messaging.messages import accept as sends
from messaging.messages.accept import Acceptance, NobodyAccepted, SendRequest
from messaging.messages.idempotency import KeyReused
from messaging.messages.queue import BATCH_PRIORITY, SINGLE_PRIORITY
from messaging.operations.audit import audit
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.delivery import Clock, claim, count, every, phone, phones, statuses_of
from tests.support.delivery_processes import accept_send, in_processes
from utils.errors import EmptyMessage, InvalidInput, InvalidPhone, NoRecipients
from utils.settings import Settings

pytest_plugins = ["tests.support.delivery_fixtures"]


def accept(
    settings: Settings, database: Database, *to: str, key: str | None = None, **values: Any
) -> Acceptance:
    request = SendRequest(to, **({"text": "Hello"} | values))
    return sends.accept(settings, database, request, key)


def test_an_accepted_request_is_rows_in_the_queue(settings: Settings, database: Database) -> None:
    body = accept(settings, database, *phones(2)).body
    rows = every(database, tables.messages)
    assert body == {
        "batch_id": rows[0].batch_id,
        "accepted": 2,
        "refused": [],
        "duplicates": 0,
        "blocked": [],
        "warnings": [],
        "warning_counts": {},
        "messages": [{"id": row.id, "to": row.recipient, "status": "queued"} for row in rows],
    }
    assert [row.recipient for row in rows] == phones(2)
    assert {(row.origin, row.on_unknown, row.estimated_parts) for row in rows} == {("api", "hold", 1)}
    assert every(database, tables.batches)[0].total == 2
    assert audit(database).problems == []


def test_recipients_are_normalised_and_a_number_written_twice_gets_one_text(
    settings: Settings, database: Database
) -> None:
    body = accept(settings, database, "+254 711 000-001", "+254711000001", "+254711000002").body
    assert (body["accepted"], body["duplicates"]) == (2, 1)
    assert [each["to"] for each in body["messages"]] == ["+254711000001", "+254711000002"]


def test_a_local_number_is_taken_where_a_region_is_set(database: Database, database_url: str) -> None:
    kenya = Settings(database_url=database_url, default_region="KE")
    assert accept(kenya, database, "0711000001").body["messages"][0]["to"] == "+254711000001"
    nowhere = Settings(database_url=database_url)
    with pytest.raises(InvalidPhone):
        accept(nowhere, database, "0711000001")


def test_refused_recipients_are_named_with_a_code_and_the_rest_is_sent(
    settings: Settings, database: Database
) -> None:
    body = accept(settings, database, phone(1), "+1234", "hello", phone(2)).body
    assert body["accepted"] == 2
    assert [(each["to"], bool(each["code"]), bool(each["message"])) for each in body["refused"]] == [
        ("+1234", True, True),
        ("hello", True, True),
    ]
    assert every(database, tables.batches)[0].refused == 2


def test_when_every_recipient_is_refused_nothing_is_written(settings: Settings, database: Database) -> None:
    with pytest.raises(NobodyAccepted) as refusal:
        accept(settings, database, "+1234", "hello")
    assert len(refusal.value.details["refused"]) == 2
    assert count(database, tables.messages) == count(database, tables.batches) == 0


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"text": " "}, "text"),
        ({"text": "x" * 1601}, "text"),
        ({"text": "a\0b"}, "text"),
        ({"on_unknown": "retry"}, "on_unknown"),
        ({"sender_id": "much too long a sender"}, "sender_id"),
        ({"sender_id": "a\nb"}, "sender_id"),
        ({"sender_id": ""}, "sender_id"),
        ({"send_at": utc_now() + timedelta(days=400)}, "send_at"),
        ({"expires_at": utc_now() - timedelta(seconds=1)}, "expires_at"),
        (
            {"send_at": utc_now() + timedelta(hours=2), "expires_at": utc_now() + timedelta(hours=1)},
            "expires_at",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_and_names_its_field(
    settings: Settings, database: Database, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        accept(settings, database, phone(1), key="key", **values)
    assert refusal.value.field == field
    assert count(database, tables.messages) == count(database, tables.idempotency_keys) == 0


def test_an_empty_text_and_an_empty_list_have_their_own_words(settings: Settings, database: Database) -> None:
    with pytest.raises(EmptyMessage):
        accept(settings, database, phone(1), text="\n")
    with pytest.raises(NoRecipients):
        accept(settings, database)


def test_more_recipients_than_a_call_may_have_are_refused(settings: Settings, database: Database) -> None:
    with pytest.raises(InvalidInput) as refusal:
        accept(settings, database, *phones(10_001))
    assert refusal.value.code == "too_many_recipients"


def test_a_handful_overtakes_a_campaign(settings: Settings, database: Database) -> None:
    accept(settings, database, *phones(11, first=50), text="campaign")
    accept(settings, database, *phones(10), text="handful")
    assert {row.priority for row in every(database, tables.messages)} == {SINGLE_PRIORITY, BATCH_PRIORITY}
    assert [one.text for one in claim(database)] == ["handful", "campaign"]


def test_without_a_sender_the_one_of_the_settings_is_used(database: Database, database_url: str) -> None:
    accept(Settings(database_url=database_url, at_sender_id="ACME"), database, phone(1))
    accept(Settings(database_url=database_url, at_sender_id="ACME"), database, phone(2), sender_id="Other")
    assert [row.sender_id for row in every(database, tables.messages)] == ["ACME", "Other"]


def test_a_text_for_later_is_scheduled_and_not_claimed(settings: Settings, database: Database) -> None:
    send_at = utc_now() + timedelta(hours=1)
    accept(settings, database, phone(1), send_at=send_at, expires_at=send_at + timedelta(hours=1))
    (row,) = every(database, tables.messages)
    assert (row.due_at, row.expires_at) == (send_at, send_at + timedelta(hours=1))
    assert every(database, tables.batches)[0].status == "scheduled"
    assert claim(database) == []


def test_a_time_that_has_just_passed_means_now(settings: Settings, database: Database) -> None:
    accept(settings, database, phone(1), send_at=utc_now() - timedelta(minutes=4))
    assert len(claim(database)) == 1


def test_a_time_further_in_the_past_is_refused_and_sends_nothing(
    settings: Settings, database: Database
) -> None:
    with pytest.raises(InvalidInput) as caught:
        accept(settings, database, phone(1), key="key", send_at=utc_now() - timedelta(minutes=6))
    assert (caught.value.code, caught.value.field) == ("send_at_in_past", "send_at")
    assert count(database, tables.messages) == count(database, tables.idempotency_keys) == 0


def test_the_same_key_gets_its_answer_also_after_its_times_have_passed(
    settings: Settings, database: Database
) -> None:
    send_at = utc_now() + timedelta(seconds=1)
    request = SendRequest([phone(1)], "Hello", send_at=send_at, expires_at=send_at + timedelta(minutes=1))
    first = sends.accept(settings, database, request, "key")
    Clock(database).step(hours=1)
    again = sends.accept(settings, database, request, "key")
    assert (again.is_replay, again.body) == (True, first.body)


def test_the_same_key_again_gets_the_first_answer(settings: Settings, database: Database) -> None:
    first = accept(settings, database, *phones(2), key="key")
    again = accept(settings, database, *phones(2), key="key")
    assert (first.is_replay, again.is_replay) == (False, True)
    assert again.body == first.body
    assert count(database, tables.messages) == 2


def test_the_first_answer_is_given_also_after_the_messages_have_moved_on(
    settings: Settings, database: Database
) -> None:
    first = accept(settings, database, phone(1), key="key")
    claim(database)
    assert accept(settings, database, phone(1), key="key").body == first.body


@pytest.mark.parametrize(
    "changed",
    [
        {"text": "Bye"},
        {"sender_id": "ACME"},
        {"on_unknown": "fail"},
        {"send_at": utc_now() + timedelta(hours=1)},
        {"expires_at": utc_now() + timedelta(hours=1)},
    ],
    ids=lambda one: next(iter(one)),
)
def test_the_same_key_with_anything_changed_is_refused(
    settings: Settings, database: Database, changed: dict[str, Any]
) -> None:
    accept(settings, database, phone(1), key="key")
    with pytest.raises(KeyReused):
        accept(settings, database, phone(1), key="key", **changed)
    with pytest.raises(KeyReused):
        accept(settings, database, phone(2), key="key")
    assert count(database, tables.messages) == 1


def test_two_requests_without_a_key_are_two_requests(settings: Settings, database: Database) -> None:
    accept(settings, database, phone(1))
    accept(settings, database, phone(1))
    assert statuses_of(database) == ["queued"] * 2


def test_threads_that_race_with_one_key_make_one_set_of_rows(settings: Settings, database: Database) -> None:
    answers: list[Acceptance] = []
    threads = [
        threading.Thread(target=lambda: answers.append(accept(settings, database, *phones(5), key="key")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answer.is_replay for answer in answers) == [False] + [True] * 5
    assert len({str(answer.body) for answer in answers}) == 1
    assert count(database, tables.messages) == 5


def test_processes_that_race_with_one_key_make_one_set_of_rows(
    database: Database, at_settings: Settings
) -> None:
    request = SendRequest(tuple(phones(5)), "Hello")
    answers = in_processes(accept_send, [(at_settings, request, "key")] * 3)
    assert sorted(answer["is_replay"] for answer in answers) == [False, True, True]
    assert len({str(answer["body"]) for answer in answers}) == 1
    assert count(database, tables.messages) == 5


def test_the_answer_comes_after_the_commit_and_the_commit_wakes_a_worker(
    settings: Settings, database: Database
) -> None:
    seen: list[int] = []
    database.wake = lambda: seen.append(count(database, tables.messages))
    accept(settings, database, *phones(3))
    assert seen == [3]


def test_a_parts_estimate_is_kept_with_the_message(settings: Settings, database: Database) -> None:
    accept(settings, database, phone(1), text="é" * 161)
    accept(settings, database, phone(2), text="🎉" * 40)
    assert [row.estimated_parts for row in every(database, tables.messages)] == [2, 2]


@pytest.mark.parametrize("text", ["a\0b", "caf\udce9"])
def test_a_text_that_no_store_can_keep_is_refused(settings: Settings, database: Database, text: str) -> None:
    """A command line makes half a surrogate pair of a byte that is not UTF-8."""
    with pytest.raises(InvalidInput) as refusal:
        accept(settings, database, phone(1), text=text)
    assert refusal.value.field == "text"
