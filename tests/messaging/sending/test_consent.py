"""Who did not agree is not texted by a promotional sender: at the claim, at the last check, by a trigger."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event, insert

from messaging.batches.quote import quote_messages
from messaging.consent import consents
from messaging.consent.consents import ConsentRule, Terms
from messaging.conversations import threads
from messaging.sending import last_check
from messaging.sending.claim import Claim, ClaimLimits
from messaging.sending.last_check import Released
from messaging.sending.triggers import TriggerSender
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.delivery import (
    LEASE,
    WORKER,
    begin,
    begin_posting,
    claim_as,
    live_settings,
    message,
    message_to,
    opt_out,
    phone,
    phones,
    queue,
    statuses_of,
)
from tests.support.fake_provider import FakeProvider
from utils.errors import NoConsent, OptedOut
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

FOR_ALL = ConsentRule(is_for_all=True)
FOR_ACME = ConsentRule(promotional=frozenset({"ACME"}))


def agree(database: Database, *numbers: str, sender_id: str | None = None) -> None:
    for number in numbers:
        consents.give(database, number, sender_id, Terms("form"))


def withdraw(database: Database, number: str) -> None:
    consents.withdraw(database, number, None, Terms("phone call"))


def claim(database: Database, rule: ConsentRule) -> list[Claim]:
    return claim_as(database, WORKER, ClaimLimits(500, LEASE, consent=rule))


def recipients(claims: list[Claim]) -> list[str]:
    return sorted(number for one in claims for number in one.recipients)


def settings_with(fake_at: FakeProvider, database: Database, **values: Any) -> Settings:
    url = database.engine.url.render_as_string(hide_password=False)
    return live_settings(url, fake_at.url, **values)


def trigger(fake_at: FakeProvider, database: Database, **values: Any) -> TriggerSender:
    settings = settings_with(fake_at, database, **values)
    return TriggerSender(settings, database, ProviderClient.from_settings(settings))


@pytest.mark.parametrize("rule", [FOR_ALL, FOR_ACME])
def test_who_did_not_agree_is_blocked_at_the_claim(database: Database, rule: ConsentRule) -> None:
    agree(database, phone(1))
    agree(database, phone(2), sender_id="acme")
    agree(database, phone(3), sender_id="OTHER")
    ids = queue(database, *phones(4), sender_id="ACME")
    assert recipients(claim(database, rule)) == phones(2)
    for refused in ids[2:]:
        assert (message(database, refused).status, message(database, refused).reason) == (
            "blocked",
            "no_consent",
        )


def test_senders_that_are_not_promotional_need_no_consent(database: Database) -> None:
    queue(database, phone(1), sender_id="CLINIC")
    queue(database, phone(2))
    assert recipients(claim(database, FOR_ACME)) == phones(2)


def test_the_confirmation_of_a_stop_needs_no_consent(database: Database) -> None:
    (confirmation,) = queue(database, phone(1), sender_id="ACME", passes_opt_out=True)
    (one,) = claim(database, FOR_ACME)
    assert begin_posting(database, one).claim.recipients == {phone(1): confirmation}


def test_an_automatic_answer_to_a_persons_own_text_needs_no_consent(database: Database) -> None:
    with database.write() as connection:
        row = {"provider_inbound_id": "in-1", "sender": phone(1), "recipient": "20880", "text": "Hi"} | {
            "meaning": "message"
        }
        came = insert(tables.inbound_messages).values(**row, received_at=wall_clock(connection))
        inbound_id = connection.execute(came.returning(tables.inbound_messages.c.id)).scalar_one()
    (answer,) = queue(database, phone(1), sender_id="20880", inbound_id=inbound_id)
    (one,) = claim(database, FOR_ALL)
    assert begin_posting(database, one).claim.recipients == {phone(1): answer}


def test_who_needs_consent_shares_no_post_with_who_does_not(database: Database) -> None:
    agree(database, phone(2))
    queue(database, phone(1), sender_id="ACME", passes_opt_out=True)
    queue(database, phone(2), sender_id="ACME")
    claims = claim(database, FOR_ACME)
    assert sorted((recipients([one])[0], one.needs_consent) for one in claims) == [
        (phone(1), False),
        (phone(2), True),
    ]


def test_a_stop_blocks_who_agreed_and_withdraws_nothing(database: Database) -> None:
    agree(database, phone(1))
    opt_out(database, phone(1))
    (refused,) = queue(database, phone(1), sender_id="ACME")
    assert claim(database, FOR_ACME) == []
    assert message(database, refused).reason == "opted_out"
    assert consents.list_consents(database, phone(1), in_force=True)["items"]


def test_who_withdraws_between_claim_and_post_is_blocked_and_the_others_leave(database: Database) -> None:
    agree(database, *phones(2))
    first, second = queue(database, *phones(2), sender_id="ACME")
    (one,) = claim(database, FOR_ACME)
    withdraw(database, phone(1))
    assert begin_posting(database, one).claim.recipients == {phone(2): second}
    assert (message(database, first).status, message(database, first).reason) == ("blocked", "no_consent")


def test_where_all_withdraw_nothing_is_posted(database: Database) -> None:
    agree(database, phone(1))
    queue(database, phone(1), sender_id="ACME")
    (one,) = claim(database, FOR_ACME)
    withdraw(database, phone(1))
    assert begin(database, one) == Released("nobody_left")


def test_nothing_is_asked_where_no_text_needs_consent(database: Database) -> None:
    queue(database, *phones(2), sender_id="CLINIC")
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    (one,) = claim(database, FOR_ACME)
    begin_posting(database, one)
    assert asked
    assert not any("consents" in statement for statement in asked)


def test_a_trigger_to_who_did_not_agree_is_refused_and_on_record(
    database: Database, fake_at: FakeProvider
) -> None:
    sender = trigger(fake_at, database, require_consent=True)
    for _ in range(2):
        with pytest.raises(NoConsent) as refusal:
            sender.send_now("Hello", [phone(1)], None, "key-1")
        assert (refusal.value.code, refusal.value.details) == ("no_consent", {"recipients": [phone(1)]})
    row = message_to(database, phone(1))
    assert (row.status, row.reason, fake_at.posts) == ("blocked", "no_consent", [])


def test_of_several_a_trigger_texts_only_who_agreed_and_names_the_others(
    database: Database, fake_at: FakeProvider
) -> None:
    agree(database, *phones(2))
    opt_out(database, phone(1))
    sender = trigger(fake_at, database, sender_classes={"ACME": "promotional"})
    result = sender.send_now("Hello", phones(3), "ACME", "key-1")
    again = sender.send_now("Hello", phones(3), "ACME", "key-1")
    assert (result.accepted, result.blocked, result.no_consent) == ([phone(2)], [phone(1)], [phone(3)])
    assert (again.blocked, again.no_consent) == (result.blocked, result.no_consent)
    assert [post["to"] for post in fake_at.posts] == [phone(2)]
    with pytest.raises(OptedOut, match="opted out or have not agreed"):
        sender.send_now("Hello", [phone(1), phone(3)], "ACME")


def test_who_withdraws_while_a_trigger_runs_is_not_texted(
    database: Database, fake_at: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree(database, phone(1))
    sender = trigger(fake_at, database, require_consent=True)
    accept = TriggerSender._accept

    def and_then(*arguments: Any) -> Any:
        accepted = accept(*arguments)
        withdraw(database, phone(1))
        return accepted

    monkeypatch.setattr(TriggerSender, "_accept", and_then)
    with pytest.raises(NoConsent):
        sender.send_now("Hello", [phone(1)], None)
    assert (fake_at.posts, statuses_of(database)) == ([], ["blocked"])


def test_a_quote_counts_who_did_not_agree_beside_who_opted_out(
    database: Database, fake_at: FakeProvider
) -> None:
    agree(database, *phones(2))
    opt_out(database, phone(2))
    opt_out(database, phone(3))
    settings = settings_with(fake_at, database, sender_classes={"ACME": "promotional"})
    found = quote_messages(settings, database, phones(5), "Hello", "ACME")
    assert (found["recipients"], found["opted_out"], found["no_consent"], found["parts"]) == (5, 2, 2, 1)
    free = quote_messages(settings, database, phones(5), "Hello", "CLINIC")
    assert (free["no_consent"], free["parts"]) == (0, 3)


def test_the_rule_is_read_from_the_settings(database: Database, fake_at: FakeProvider) -> None:
    classes = {"Acme": "promotional", "20880": "transactional"}
    some = ConsentRule.of(settings_with(fake_at, database, sender_classes=classes))
    assert [some.applies_to(one) for one in ("ACME", "acme", "20880", None)] == [True, True, False, False]
    every = ConsentRule.of(settings_with(fake_at, database, require_consent=True))
    assert every.applies_to("20880")
    assert every.applies_to(None)


def test_what_a_person_types_in_a_conversation_is_no_automatic_answer(database: Database) -> None:
    queue(database, phone(1), sender_id="ACME", origin=threads.ORIGIN)
    assert claim(database, FOR_ACME) == []
    assert message_to(database, phone(1)).reason == "no_consent"


def test_consent_is_asked_once_for_all_posts_of_a_sender(database: Database) -> None:
    agree(database, *phones(3))
    for number in phones(3):
        queue(database, number, sender_id="ACME", text=f"for {number}")
    claims = claim(database, FOR_ACME)
    assert len(claims) == 3
    withdraw(database, phone(2))
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    with database.write() as connection:
        unchanged = last_check.find_unchanged(connection, claims, wall_clock(connection))
    assert unchanged == {one.attempt_id for one in claims if phone(2) not in one.recipients}
    assert len([one for one in asked if "consents_in_force" in one]) == 1
