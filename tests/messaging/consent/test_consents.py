from __future__ import annotations

import threading
from typing import Any

import pytest

from messaging.access.actions import list_actions
from messaging.access.actor import Actor, acting
from messaging.consent import consents
from messaging.consent.consents import Terms
from messaging.storage.database import Database
from tests.support.callback_rows import OTHER_PHONE, PHONE
from utils.errors import InvalidInput, NotFound

FORM = Terms("signup form", "offers", "Send me offers", "2027-01", "form 12")


def consented(database: Database, sender_id: str | None = None) -> set[str]:
    with database.read() as connection:
        return consents.has_consent(connection, [PHONE, OTHER_PHONE], sender_id)


def ledger(database: Database, **filters: Any) -> list[tuple[str, str | None, bool]]:
    items = consents.list_consents(database, **filters)["items"]
    return [(one["action"], one["sender_id"], one["in_force"]) for one in items]


def test_a_consent_to_everything_counts_for_every_sender(database: Database) -> None:
    assert consented(database) == set()
    answer = consents.give(database, PHONE, None, FORM)
    assert answer["added"]
    assert consented(database) == consented(database, "ACME") == {PHONE}


def test_a_consent_to_one_sender_counts_for_it_alone_in_any_spelling(database: Database) -> None:
    consents.give(database, PHONE, "aCmE", FORM)
    assert consented(database, "ACME") == consented(database, "acme") == {PHONE}
    assert consented(database, "OTHER") == consented(database) == set()


def test_the_ledger_keeps_the_words_the_source_and_the_evidence(database: Database) -> None:
    consents.give(database, PHONE, None, FORM)
    (entry,) = consents.list_consents(database)["items"]
    said = ("purpose", "wording", "wording_version", "source", "evidence")
    assert [entry[name] for name in said] == ["offers", "Send me offers", "2027-01", "signup form", "form 12"]


def test_the_same_words_again_add_nothing_and_new_words_replace_the_old(database: Database) -> None:
    consents.give(database, PHONE, None, FORM)
    assert not consents.give(database, PHONE, None, FORM)["added"]
    newer = Terms("signup form", "offers", "Send me offers and news", "2027-02")
    assert consents.give(database, PHONE, None, newer)["added"]
    assert ledger(database) == [("give", None, True), ("give", None, False)]
    assert ledger(database, in_force=True) == [("give", None, True)]


def test_a_withdrawal_ends_every_consent_and_stays_in_the_ledger(database: Database) -> None:
    consents.give(database, PHONE, None, FORM)
    consents.give(database, PHONE, "ACME", FORM)
    answer = consents.withdraw(database, PHONE, None, Terms("phone call"))
    assert (answer["withdrawn"], answer["consents"]) == (2, [])
    assert consented(database, "ACME") == set()
    assert len(ledger(database)) == 4
    assert ledger(database, in_force=True) == []
    with pytest.raises(NotFound):
        consents.withdraw(database, PHONE, None, Terms("phone call"))


def test_a_withdrawal_for_one_sender_leaves_the_others(database: Database) -> None:
    consents.give(database, PHONE, "ACME", FORM)
    consents.give(database, PHONE, "CLINIC", FORM)
    consents.withdraw(database, PHONE, "acme", Terms("phone call"))
    assert (consented(database, "ACME"), consented(database, "CLINIC")) == (set(), {PHONE})
    with pytest.raises(NotFound) as refusal:
        consents.withdraw(database, PHONE, "ACME", Terms("phone call"))
    assert (refusal.value.field, len(refusal.value.details["consents"])) == ("sender_id", 1)


def test_a_sender_id_that_cannot_be_one_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput):
        consents.give(database, PHONE, "x" * 40, FORM)


def test_pages_go_by_key_and_filter_by_phone(database: Database) -> None:
    for sender_id in ("A1", "B2", "C3"):
        consents.give(database, PHONE, sender_id, FORM)
    consents.give(database, OTHER_PHONE, None, FORM)
    first = consents.list_consents(database, PHONE, limit=2)
    rest = consents.list_consents(database, PHONE, cursor=first["next_cursor"], limit=2)
    assert [one["sender_id"] for one in first["items"] + rest["items"]] == ["C3", "B2", "A1"]
    assert rest["next_cursor"] is None


def test_who_gave_and_withdrew_is_written_down_without_what_the_person_said(database: Database) -> None:
    token = acting.set(Actor("operator:mary"))
    try:
        consents.give(database, PHONE, None, FORM)
        consents.give(database, PHONE, None, FORM)
        consents.withdraw(database, PHONE, None, Terms("phone call"))
    finally:
        acting.reset(token)
    found = list_actions(database)["items"]
    assert [one["action"] for one in found] == ["consent.withdraw", "consent.give"]
    assert {one["subject"] for one in found} == {f"phone:{PHONE}"}
    assert "offers" not in str(found)


def test_two_at_once_leave_one_consent_in_force(database: Database) -> None:
    together = threading.Barrier(2)

    def agree(version: str) -> None:
        together.wait(30)
        consents.give(database, PHONE, None, Terms("form", wording_version=version))

    threads = [threading.Thread(target=agree, args=(version,)) for version in ("1", "2")]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert sorted(ledger(database)) == [("give", None, False), ("give", None, True)]
