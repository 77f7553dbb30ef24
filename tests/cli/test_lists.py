"""The commands that list: what the routes show, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from click.testing import Result

from messaging.messages import held, search
from messaging.storage import tables
from messaging.storage.database import Database
from tests.messaging.operations.test_held import held_reply
from tests.support import delivery
from tests.support.callback_rows import PHONE, inbound, open_inbox
from tests.support.fake_provider import FakeProvider
from utils.settings import Settings

Sms = Callable[..., Result]


def listed(result: Result) -> list[Any]:
    assert result.exit_code == 0, result.output
    items: list[Any] = json.loads(result.stdout)["items"]
    return items


def test_messages_are_found_by_what_is_known_of_them(sms: Sms, database: Database) -> None:
    delivery.queue(database, *delivery.phones(3))
    batch_id = delivery.queue_batch(database, [delivery.phone(4)], text="Bring 100% of it")
    delivery.change(database, tables.messages, 2, status="failed", reason="absent_subscriber")
    delivery.change(database, tables.messages, 3, created_by="key:billing")
    for words, ids in (
        ((), [4, 3, 2, 1]),
        (("--to", delivery.phone(1)), [1]),
        (("--status", "failed"), [2]),
        (("--batch", str(batch_id)), [4]),
        (("--created-by", "key:billing"), [3]),
        (("--created-by", "key:nobody"), []),
        (("--q", "100%"), [4]),
        (("--since", "2099-01-01"), []),
        (("--until", "2099-01-01T08:00"), [4, 3, 2, 1]),
    ):
        assert [one["id"] for one in listed(sms("messages", *words, "--json"))] == ids, words


def test_messages_are_found_by_their_words(
    sms: Sms, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SETTLED_AFTER", timedelta(seconds=-1))
    delivery.queue(database, delivery.phone(1), text="School closes")
    delivery.queue(database, delivery.phone(2), text="Bring a book")
    search.index_new(database)
    assert [one["id"] for one in listed(sms("messages", "--text", "SCHOOL", "--json"))] == [1]
    refused = sms("messages", "--text", "!")
    assert refused.exit_code == 1
    assert "no word" in refused.stderr


def test_a_list_says_how_to_see_more(sms: Sms, database: Database) -> None:
    delivery.queue(database, *delivery.phones(3))
    first = sms("messages", "--limit", "2")
    assert first.exit_code == 0
    assert first.stdout.count("+2547") == 2
    _, cursor = first.stderr.split("--cursor ")
    assert [one["id"] for one in listed(sms("messages", "--cursor", cursor.strip(), "--json"))] == [1]


def test_batches_are_listed(sms: Sms, database: Database) -> None:
    delivery.queue_batch(database, delivery.phones(2))
    assert [one["counts"] for one in listed(sms("batch", "list", "--json"))] == [{"queued": 2}]
    assert "queued 2" in sms("batch", "list").stdout


@pytest.mark.usefixtures("migrated")
def test_texts_that_came_and_conversations_are_listed_and_answered(
    sms: Sms, database: Database, settings: Settings
) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("inbound", inbound("Is the clinic open?", "in-1"))
    (came,) = listed(sms("inbound", "--from", PHONE, "--json"))
    assert (came["from"], came["text"]) == (PHONE, "Is the clinic open?")
    assert listed(sms("inbound", "--meaning", "stop", "--json")) == []
    assert "Is the clinic open?" in sms("inbound").stdout
    (conversation,) = listed(sms("conversations", "--unread", "--json"))
    assert (conversation["phone"], conversation["unread"]) == (PHONE, 1)
    assert PHONE in sms("conversations").stdout

    answer = sms("reply", PHONE, "Until five", "--json")
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["to"] == PHONE
    assert "Idempotency-Key: " in answer.stderr
    lines = listed(sms("conversations", PHONE, "--json"))
    assert (lines[0]["direction"], lines[0]["text"]) == ("out", "Until five")


@pytest.mark.usefixtures("migrated")
def test_a_reply_to_nobody_says_so(sms: Sms) -> None:
    answer = sms("reply", PHONE, "Hello")
    assert answer.exit_code == 1
    assert "has never written to us" in answer.stderr


def test_the_balance_is_shown(sms: Sms, provider: FakeProvider) -> None:
    assert sms("balance").stdout == "KES 120.5000\n"
    assert json.loads(sms("balance", "--json").stdout)["balance"]["currency"] == "KES"


def test_figures_are_shown_as_tables_and_for_programs(sms: Sms, database: Database) -> None:
    delivery.queue(database, delivery.phone(1))
    delivery.opt_out(database, delivery.phone(1))
    delivery.claim(database)
    shown = sms("stats")
    assert shown.exit_code == 0
    assert "opted_out" in shown.stdout
    found = json.loads(
        sms("stats", "--bucket", "hour", "--since", "2099-01-01", "--until", "2099-01-02", "--json").stdout
    )
    assert (len(found["items"]), found["totals"]["counts"]) == (24, {})
    assert json.loads(sms("stats", "--json").stdout)["totals"]["counts"] == {"blocked": 1}


def test_what_is_held_is_listed_released_and_cancelled(sms: Sms, database: Database) -> None:
    delivery.queue(database, *delivery.phones(4))
    delivery.in_write(
        database, lambda connection, now: held.hold(connection, [1, 2, 3, 4], "database_restored", now)
    )
    held_reply(database, delivery.phone(5))
    assert [one["id"] for one in listed(sms("held", "list", "--json"))][:2] == ["reply:1", "message:4"]
    assert "database_restored" in sms("held", "list").stdout
    assert sms("held", "release", "message:1").stdout == "1 queued\n"
    assert delivery.every(database, tables.message_events)[-1].detail.startswith("released by shell:")
    assert sms("held", "cancel", "message:2", "reply:1").stdout == "2 cancelled\n"

    refused = sms("held", "release", "message:1", "message:3", "--json")
    assert refused.exit_code == 1
    found = json.loads(refused.stdout)
    assert found["counts"] == {"queued": 1}
    assert [(one["id"], one["error"]["code"]) for one in found["refused"]] == [("message:1", "not_held")]

    assert sms("held", "release", "--all", "--reason", "daily_limit").stdout == "Nothing changed.\n"
    assert sms("held", "release", "--all", "--reason", "database_restored").stdout == "1 queued\n"
    assert listed(sms("held", "list", "--json")) == []


@pytest.mark.parametrize("words", [(), ("--all", "message:1"), ("message:1", "--reason", "daily_limit")])
def test_a_release_of_what_is_not_named_is_refused(sms: Sms, words: tuple[str, ...]) -> None:
    assert sms("held", "release", *words).exit_code == 2


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("words", [("opt-outs", "list"), ("consents", "list"), ("actions",)], ids=" ".join)
def test_a_ledger_says_how_to_see_more(sms: Sms, words: tuple[str, ...]) -> None:
    for number in range(3):
        sms("opt-outs", "add", delivery.phone(number))
        sms("consents", "add", delivery.phone(number))
    first = sms(*words, "--limit", "2")
    _, cursor = first.stderr.split("More: --cursor ")
    assert (
        len(listed(sms(*words, "--cursor", cursor.strip(), "--json")))
        == len(listed(sms(*words, "--json"))) - 2
    )


def test_a_batch_says_why_its_texts_did_not_arrive(sms: Sms, database: Database) -> None:
    batch = delivery.queue_batch(database, delivery.phones(7))
    why = [
        "opted_out",
        "absent_subscriber",
        "opted_out",
        "absent_subscriber",
        "opted_out",
        "too_late",
        "timed_out",
    ]
    became = ["blocked", "failed", "blocked", "failed", "blocked", "expired", "unknown"]
    for message_id, (status, reason) in enumerate(zip(became, why, strict=True), 1):
        delivery.change(database, tables.messages, message_id, status=status, reason=reason)
    found = listed(sms("batch", "reasons", str(batch), "--json"))
    assert [(one["reason"], one["messages"]) for one in found][:2] == [
        ("opted_out", 3),
        ("absent_subscriber", 2),
    ]
    assert found[0]["explanation"] in sms("batch", "reasons", str(batch)).stdout
    assert "opted_out" not in sms("batch", "show", str(batch)).stdout
    delivery.change(database, tables.batches, batch, status="finished")
    shown = sms("batch", "show", str(batch))
    assert "opted_out" in shown.stdout
    assert f"1 more: sms batch reasons {batch}" in shown.stderr
    assert json.loads(sms("batch", "show", str(batch), "--json").stdout)["total"] == 7
