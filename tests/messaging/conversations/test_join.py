"""JOIN: a text that is a consent."""

from __future__ import annotations

from typing import Any

import pytest

from messaging.consent import consents, ledger
from messaging.consent.consents import Terms
from messaging.conversations.receive import OTHER_WORDS
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.callback_rows import PHONE, all_rows, inbound, only_row, open_inbox, opt_out
from utils.settings import Settings

OFFER = {
    "join_purpose": "offers",
    "join_wording": "Text JOIN to 20880 for our offers",
    "join_wording_version": "2027-01",
}


def receive(database: Database, settings: Settings, *bodies: bytes, **overrides: object) -> None:
    with open_inbox(database, settings, **overrides) as inbox:
        for body in bodies:
            inbox.receive("inbound", body)


def entries(database: Database, *, in_force: bool = False) -> list[dict[str, Any]]:
    return list(consents.list_consents(database, in_force=in_force)["items"])


def consented(database: Database, sender_id: str | None) -> bool:
    with database.read() as connection:
        return bool(consents.has_consent(connection, [PHONE], sender_id))


def blocked(database: Database) -> bool:
    with database.read() as connection:
        return bool(ledger.suppressed(connection, [PHONE], "20880"))


def texts(database: Database) -> list[str]:
    return [row.text for row in all_rows(database, tables.messages)]


def test_a_join_is_written_down_with_the_words_of_the_offer_and_confirmed(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("Join!"), **OFFER)
    (entry,) = entries(database, in_force=True)
    kept = only_row(database, tables.inbound_messages)
    assert kept.meaning == "join"
    assert {name: entry[name] for name in ("phone", "sender_id", "source", "evidence")} == {
        "phone": PHONE,
        "sender_id": None,
        "source": "keyword",
        "evidence": f"inbound {kept.id} to 20880: Join!",
    }
    assert [entry[name] for name in ("purpose", "wording", "wording_version")] == list(OFFER.values())
    assert texts(database) == ["You will get our texts. Reply STOP to end them."]


def test_without_an_offer_the_consent_has_no_words_and_the_answer_is_in_the_language_of_the_join(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("jiunge"))
    (entry,) = entries(database)
    assert (entry["purpose"], entry["wording"], entry["wording_version"]) == (None, None, None)
    assert texts(database) == ["Utapokea ujumbe wetu. Jibu STOP ili kuusitisha."]


def test_a_join_is_confirmed_once_and_said_again_it_is_an_ordinary_text(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("JOIN", "1"), inbound("JOIN", "2"), inbound("JOIN", "1"))
    assert len(entries(database)) == 1
    assert texts(database)[1:] == ['This is a response to: "JOIN"']


def test_a_join_to_other_words_of_an_offer_is_another_consent(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("JOIN", "1"), **OFFER)
    receive(database, settings, inbound("JOIN", "2"), **(OFFER | {"join_wording_version": "2027-02"}))
    assert [(one["wording_version"], one["in_force"]) for one in entries(database)] == [
        ("2027-02", True),
        ("2027-01", False),
    ]


def test_a_join_ends_a_stop_and_a_later_stop_blocks_again(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("STOP", "1"))
    assert blocked(database)
    receive(database, settings, inbound("JOIN", "2"))
    assert not blocked(database)
    receive(database, settings, inbound("STOP", "3"))
    assert blocked(database)
    # It withdraws nothing: a second JOIN only has to end the STOP, and is confirmed.
    receive(database, settings, inbound("JOIN", "4"))
    assert not blocked(database)
    assert len(entries(database)) == 1
    assert texts(database)[-1].startswith("You will get our texts")


def test_a_join_does_not_lift_what_the_network_has_blocked(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("opt_out", opt_out())
        inbox.receive("inbound", inbound("JOIN"))
    assert blocked(database)
    assert only_row(database, tables.inbound_messages).reply_outcome == "opted_out"


def test_a_join_covers_what_a_stop_would_end(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("JOIN", to="40404"), stop_scope="sender")
    assert consented(database, "40404")
    assert not consented(database, "20880")


def test_a_join_that_comes_late_is_overtaken_by_the_stop_that_was_said_after_it(
    database: Database, settings: Settings
) -> None:
    later, earlier = "2026-11-24T10:05:00Z", "2026-11-24T10:00:00Z"
    receive(database, settings, inbound("STOP", "1", date=later), inbound("JOIN", "2", date=earlier))
    assert blocked(database)
    assert entries(database) == []


def test_a_join_counts_though_its_id_came_before_with_other_words(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("JO"), inbound("JOIN"))
    assert [row.detail for row in all_rows(database, tables.callbacks)] == [None, OTHER_WORDS]
    assert consented(database, "20880")


def test_who_withdrew_may_join_again(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("JOIN", "1"))
    consents.withdraw(database, PHONE, None, Terms("call"))
    assert not consented(database, "20880")
    receive(database, settings, inbound("JOIN", "2"))
    assert consented(database, "20880")


def test_with_an_empty_reply_the_text_goes_on_and_is_a_consent_all_the_same(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("JOIN"), join_reply="")
    assert consented(database, "20880")
    assert texts(database) == ['This is a response to: "JOIN"']


@pytest.mark.parametrize(
    ("region", "agreed"),
    # Without a region it may be a number of several countries: a STOP counts for all, a consent for none.
    [("KE", ["+254711000777"]), (None, [])],
)
def test_a_number_that_cannot_be_told_agrees_to_nothing(
    database: Database, settings: Settings, region: str | None, agreed: list[str]
) -> None:
    body = inbound("JOIN", sender="0711000777")
    receive(database, settings, body, default_region=region)
    assert [one["phone"] for one in entries(database)] == agreed


def test_own_words_of_the_operator_join_too(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("offers please"), join_words=("offers please",), join_reply="Hi")
    assert consented(database, None)
    assert texts(database) == ["Hi"]
