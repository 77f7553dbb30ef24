"""A promotional text says how to end such texts, before anything is measured."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from messaging.batches import quote as quotes
from messaging.batches.importer import import_next
from messaging.batches.rows import BatchRows
from messaging.batches.upload import BatchRequest, receive
from messaging.consent import consents
from messaging.consent.consents import Terms
from messaging.conversations import threads
from messaging.messages import accept as sends
from messaging.messages.accept import Acceptance, SendRequest
from messaging.messages.way_out import WayOut
from messaging.operations import doctor
from messaging.sending.triggers import TriggerSender
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.callback_rows import inbound, open_inbox
from tests.support.delivery import every, live_settings, phone, phones
from tests.support.fake_provider import FakeProvider
from utils.csv_files import read_header, read_rows
from utils.errors import InvalidInput
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

ACME = {"ACME": "promotional", "CLINIC": "transactional"}
WAY_OUT = "STOP to 20880"
SALE = "Sale today"
WHOLE = f"{SALE}\n{WAY_OUT}"
# One part without the way out, two with it.
FULL = "x" * 150


def promotional(settings: Settings, **more: object) -> Settings:
    return settings.model_copy(update={"sender_classes": ACME, "way_out_text": WAY_OUT} | more)


def composed(text: str, sender_id: str | None = "ACME", **settings: Any) -> str:
    way_out = WayOut.of(Settings(**({"sender_classes": ACME} | settings)), sender_id)
    return way_out.composed(text)


def texts(database: Database) -> list[tuple[str, int]]:
    return [(row.text, row.estimated_parts) for row in every(database, tables.messages)]


def accept(settings: Settings, database: Database, text: str, sender_id: str | None = "ACME") -> Acceptance:
    return sends.accept(settings, database, SendRequest(phones(1), text, sender_id))


def send_file(settings: Settings, database: Database, raw: bytes, text: str, sender_id: str | None) -> None:
    request = BatchRequest(text, sender_id)
    receive(settings, database, request, io.BytesIO(raw))
    assert import_next(database, settings, lambda: False)


def test_only_promotional_senders_add_it_in_any_spelling() -> None:
    assert composed(SALE) == composed(SALE, "acme") == WHOLE
    assert composed(SALE, "CLINIC") == composed(SALE, "OTHER") == composed(SALE, None) == SALE
    assert composed(SALE, None, sender_classes={"AFRICASTKNG": "promotional"}) == WHOLE
    assert composed(SALE, way_out_text="") == SALE


@pytest.mark.parametrize(
    "text", ["Sale. Reply STOP to end", "STOP", "(STOP)", "Reply\nSTOP.", f"Sale. {WAY_OUT}", "Jibu ACHA."]
)
def test_a_text_that_names_a_way_out_gets_no_second_one(text: str) -> None:
    assert composed(text, stop_words=("acha",)) == text


@pytest.mark.parametrize(
    "text", ["Do not stop here", "NON-STOP sale", "STOPPED prices", "UNSTOPPABLE", "THE END OF THE SALE"]
)
def test_other_words_are_no_way_out(text: str) -> None:
    assert composed(text, stop_words=("acha",)) == f"{text}\n{WAY_OUT}"


def test_an_own_way_out_without_stop_is_not_said_twice() -> None:
    own = {"way_out_text": "Opt out: 0800 1"}
    assert composed("Sale. Opt out: 0800 1", **own) == "Sale. Opt out: 0800 1"
    assert composed("Sale \n", **own) == "Sale\nOpt out: 0800 1"


def test_a_text_of_the_api_carries_it_before_its_parts_are_counted(
    settings: Settings, database: Database
) -> None:
    settings = promotional(settings)
    accept(settings, database, FULL)
    accept(settings, database, FULL, "CLINIC")
    assert texts(database) == [(f"{FULL}\n{WAY_OUT}", 2), (FULL, 1)]


def test_the_sender_of_the_settings_counts_where_none_is_named(
    settings: Settings, database: Database
) -> None:
    settings = promotional(settings, at_sender_id="ACME")
    accept(settings, database, SALE, None)
    send_file(settings, database, f"phone\n{phone(2)}\n".encode(), SALE, None)
    assert texts(database) == [(WHOLE, 1), (WHOLE, 1)]
    found = quotes.quote_messages(settings, database, phones(1), SALE)
    assert found["no_consent"] == 1


def test_a_text_that_is_too_long_with_it_is_refused_with_a_sentence(
    settings: Settings, database: Database
) -> None:
    settings, long = promotional(settings), "x" * 1590
    file = io.BytesIO(f"phone\n{phone(1)}\n".encode())
    for send in (
        lambda: accept(settings, database, long),
        lambda: quotes.quote_messages(settings, database, phones(1), long, "ACME"),
        lambda: quotes.quote_file(settings, database, file, long, "ACME"),
        lambda: receive(settings, database, BatchRequest(long, "ACME"), file),
    ):
        with pytest.raises(
            InvalidInput, match=r"With the way out 'STOP to 20880' \(WAY_OUT_TEXT\)"
        ) as caught:
            send()
        assert caught.value.code == "text_too_long"
        file.seek(0)
    assert texts(database) == []
    accept(settings, database, long, "CLINIC")


def test_each_row_of_a_file_carries_it_once_and_a_quote_counts_the_same(
    settings: Settings, database: Database
) -> None:
    settings = promotional(settings)
    rows = [f"{phone(1)},Ann", f"{phone(2)},Ben: reply STOP", f"{phone(3)},{'x' * 1590}"]
    raw = "\n".join(["phone,name", *rows]).encode()
    for number in phones(3):
        consents.give(database, number, None, Terms("form"))
    found = quotes.quote_file(settings, database, io.BytesIO(raw), "Hi {{name}}", "ACME")
    send_file(settings, database, raw, "Hi {{name}}", "ACME")
    wanted = [(f"Hi Ann\n{WAY_OUT}", 1), ("Hi Ben: reply STOP", 1)]
    assert texts(database) == wanted
    assert [(one["text"], 1) for one in found["samples"]] == wanted
    assert (found["parts"], [one["code"] for one in found["refused"]]) == (2, ["text_too_long"])
    (refused,) = every(database, tables.refused_rows)
    assert (refused.line, refused.code) == (4, "text_too_long")
    assert "WAY_OUT_TEXT" in refused.reason


def test_a_quote_of_one_text_counts_and_shows_it(settings: Settings, database: Database) -> None:
    settings = promotional(settings)
    for number in phones(2):
        consents.give(database, number, None, Terms("form"))
    found = quotes.quote_messages(settings, database, phones(2), FULL, "ACME")
    assert (found["parts"], found["samples"][0]["text"]) == (4, f"{FULL}\n{WAY_OUT}")
    assert quotes.quote_messages(settings, database, phones(2), FULL, "CLINIC")["parts"] == 2


def test_the_same_number_twice_is_a_duplicate_as_before() -> None:
    raw = io.BytesIO(f"phone,name\n{phone(1)},A\n{phone(1)},A\n".encode())
    way_out = WayOut.of(Settings(sender_classes=ACME), "ACME")
    header = read_header(raw.getvalue())
    chunk = BatchRows("Hi {{name}}", header, None, way_out).read(read_rows(raw, header), 10)
    assert chunk is not None
    assert ([row.text for row in chunk.taken], chunk.duplicates) == ([f"Hi A\n{WAY_OUT}"], 1)


def test_a_trigger_carries_it_and_its_key_is_good_when_the_setting_has_changed(
    database: Database, fake_at: FakeProvider
) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    consents.give(database, phone(1), None, Terms("form"))

    def sender(**more: Any) -> TriggerSender:
        settings = live_settings(url, fake_at.url, sender_classes=ACME, **more)
        return TriggerSender(settings, database, ProviderClient.from_settings(settings))

    sender(way_out_text=WAY_OUT).send_now(SALE, [phone(1)], "ACME", "key-1")
    sender(way_out_text="Other words").send_now(SALE, [phone(1)], "ACME", "key-1")
    assert [post["message"] for post in fake_at.posts] == [WHOLE]
    with pytest.raises(InvalidInput, match="WAY_OUT_TEXT") as caught:
        sender(way_out_text=WAY_OUT).send_now("x" * 1590, [phone(1)], "ACME")
    assert (caught.value.field, len(fake_at.posts)) == ("message", 1)


def test_answers_have_none(settings: Settings, database: Database) -> None:
    """Of a person in a conversation, and automatic ones: whoever wrote to us is talking, not advertised to."""
    promotional_number = promotional(settings, sender_classes={"20880": "promotional"})
    with open_inbox(database, promotional_number) as inbox:
        inbox.receive("inbound", inbound("hello", sender=phone(1)))
    threads.say(database, phone(1), "We open at eight")
    assert [text for text, _ in texts(database)] == ['This is a response to: "hello"', "We open at eight"]


def test_a_repeated_call_is_answered_again_though_the_setting_has_changed(
    settings: Settings, database: Database
) -> None:
    request = SendRequest(phones(1), SALE, "ACME")
    first = sends.accept(promotional(settings), database, request, "key-1")
    again = sends.accept(promotional(settings, way_out_text="y" * 90), database, replace(request), "key-1")
    assert again.is_replay
    assert again.body == first.body


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, None),
        ({"sender_classes": {"ACME": "transactional"}, "way_out_text": ""}, None),
        ({"sender_classes": ACME}, "say 'STOP to 20880'"),
        ({"sender_classes": ACME, "way_out_text": ""}, "set WAY_OUT_TEXT"),
        ({"sender_classes": ACME, "stop_scope": "sender"}, "from ACME: set STOP_SCOPE=all"),
        ({"sender_classes": {"20880": "promotional"}, "stop_scope": "sender"}, "say 'STOP to 20880'"),
    ],
)
def test_the_doctor_says_whether_the_way_out_leads_out(settings: dict[str, Any], says: str | None) -> None:
    found = list(doctor._way_out(Settings(**settings)))
    assert [one.is_well for one in found] == ([] if says is None else ["set " not in says])
    assert all(says is not None and says in one.says for one in found)
