from __future__ import annotations

from typing import Any

import pytest

from messaging.consent import ledger as opt_outs
from messaging.consent.ledger import LedgerEntry
from messaging.operations.audit import audit
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.callback_rows import (
    OTHER_PHONE,
    PHONE,
    all_rows,
    at_once,
    form,
    only_row,
    open_inbox,
    opt_out,
)
from utils.settings import Settings


def stop(database: Database, source: str = "api", sender_id: str | None = None, scope: str = "all") -> bool:
    with database.write() as connection:
        return opt_outs.record_stop(connection, PHONE, scope, sender_id, source)


def start(database: Database, sender_id: str = "20880") -> int:
    with database.write() as connection:
        return opt_outs.record_start(connection, PHONE, sender_id)


def lift(database: Database, sender_id: str | None = None) -> int:
    with database.write() as connection:
        return opt_outs.lift(connection, PHONE, sender_id, source="api", detail="asked by phone")


def suppressed(database: Database, sender_id: str | None) -> bool:
    with database.read() as connection:
        return opt_outs.suppressed(connection, [PHONE, OTHER_PHONE], sender_id) == {PHONE}


def ledger(database: Database, **filters: Any) -> list[LedgerEntry]:
    with database.read() as connection:
        return opt_outs.entries(connection, **filters)


def test_a_block_of_everything_counts_for_every_sender(database: Database) -> None:
    assert stop(database)
    assert suppressed(database, None)
    assert suppressed(database, "ACME")


@pytest.mark.parametrize("asked", ["Acme", "ACME", " acme "])
def test_a_block_of_one_sender_counts_for_it_in_any_spelling(database: Database, asked: str) -> None:
    stop(database, sender_id="aCmE", scope="sender")
    assert suppressed(database, asked)
    assert not suppressed(database, "OTHER")
    assert not suppressed(database, None)


def test_no_sender_id_means_the_one_that_at_puts_there(database: Database) -> None:
    stop(database, sender_id=None, scope="sender")
    assert suppressed(database, None)
    assert suppressed(database, "AfricasTkng")
    assert not suppressed(database, "ACME")


def test_a_number_is_the_same_sender_with_and_without_its_plus(database: Database) -> None:
    stop(database, sender_id="254700000020", scope="sender")
    assert suppressed(database, "+254700000020")


def test_nobody_asked_about_is_nobody_suppressed(database: Database) -> None:
    with database.read() as connection:
        assert opt_outs.suppressed(connection, [], None) == set()


def test_many_phones_are_one_question(database: Database) -> None:
    stop(database)
    with database.read() as connection:
        phones = [PHONE, *(f"+2547220{number:05d}" for number in range(20_000))]
        assert opt_outs.suppressed(connection, phones, "X") == {PHONE}


def test_a_block_that_stands_is_written_once_for_each_that_says_so(database: Database) -> None:
    assert stop(database)
    assert not stop(database)
    assert not any(stop(database, "callback") for _ in range(3))
    assert len(ledger(database)) == 2


def test_blocks_at_the_same_moment_are_one_entry(database: Database) -> None:
    assert sorted(at_once([lambda: stop(database)] * 4)) == [False, False, False, True]
    assert len(ledger(database)) == 1


def test_start_lifts_only_what_stop_has_blocked(database: Database) -> None:
    stop(database, "keyword")
    stop(database, "refused_406", "20880", "sender")
    assert start(database) == 1
    assert [row.sender_id for row in all_rows(database, tables.suppressions)] == ["20880"]
    assert [(one.action, one.sender_id, one.is_in_force) for one in ledger(database)] == [
        ("start", "", False),
        ("stop", "20880", True),
        ("stop", "", False),
    ]


def test_start_lifts_the_stop_to_the_number_it_was_texted_to_and_no_other(database: Database) -> None:
    stop(database, "keyword", "20880", "sender")
    stop(database, "keyword", "40404", "sender")
    assert start(database, "20880") == 1
    assert suppressed(database, "40404")
    assert not suppressed(database, "20880")


def test_a_block_by_the_network_takes_over_from_one_by_stop(database: Database) -> None:
    stop(database, "keyword")
    assert stop(database, "callback")
    assert start(database) == 0
    assert suppressed(database, "20880")
    assert [(one.source, one.is_in_force) for one in ledger(database)] == [
        ("callback", True),
        ("keyword", False),
    ]


def test_a_block_by_stop_does_not_take_over_from_one_by_the_network(database: Database) -> None:
    stop(database, "callback")
    assert not stop(database, "keyword")
    assert start(database) == 0
    assert suppressed(database, "20880")


def test_the_ledger_keeps_what_a_person_said_though_the_network_had_blocked_before(
    database: Database,
) -> None:
    """Whoever lifts the network's block must be able to see it."""
    stop(database, "callback")
    for _ in range(3):
        assert not stop(database, "keyword")
    assert [(one.source, one.is_in_force) for one in ledger(database)] == [
        ("keyword", False),
        ("callback", True),
    ]
    assert audit(database).ok


def test_a_start_without_a_stop_writes_nothing(database: Database) -> None:
    assert start(database) == 0
    assert ledger(database) == []


def test_an_operator_lifts_every_block_or_one(database: Database) -> None:
    stop(database, "callback")
    stop(database, "callback", "ACME", "sender")
    assert lift(database, "acme") == 1
    assert suppressed(database, "ACME")
    assert lift(database) == 1
    assert not suppressed(database, "ACME")
    assert lift(database) == 0
    assert [(one.action, one.detail) for one in ledger(database)][:2] == [("lift", "asked by phone")] * 2


def test_who_was_lifted_can_be_blocked_again(database: Database) -> None:
    stop(database)
    lift(database)
    assert stop(database)
    assert suppressed(database, None)


def test_the_ledger_is_read_in_pages_newest_first(database: Database) -> None:
    for sender_id in ("A", "B", "C"):
        stop(database, sender_id=sender_id, scope="sender")
    with database.write() as connection:
        opt_outs.record_stop(connection, OTHER_PHONE, "all", None, "api")
    first = ledger(database, limit=2)
    assert [(one.phone, one.sender_id) for one in first] == [(OTHER_PHONE, ""), (PHONE, "C")]
    assert [one.sender_id for one in ledger(database, before_id=first[-1].id)] == ["B", "A"]
    assert [one.sender_id for one in ledger(database, phone=PHONE)] == ["C", "B", "A"]


@pytest.mark.parametrize(
    ("body", "key", "scope"),
    [
        (opt_out(PHONE, senderId="Acme"), "ACME", "sender"),
        (opt_out(PHONE), "", "all"),
        (opt_out(PHONE, senderId=""), "", "all"),
        (opt_out("254711000001", senderId="20880"), "20880", "sender"),
        (b"phoneNumber=+254711000001&senderId=20880", "20880", "sender"),
    ],
)
def test_at_s_callback_blocks_the_sender_id_it_names(
    database: Database, settings: Settings, body: bytes, key: str, scope: str
) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("opt_out", body)
        inbox.receive("opt_out", body)
    assert tuple(only_row(database, tables.suppressions))[:2] == (PHONE, key)
    (entry,) = ledger(database)
    assert (entry.scope, entry.source, entry.callback_id) == (scope, "callback", 1)


def test_opt_outs_of_many_at_the_same_moment_are_all_kept(database: Database, settings: Settings) -> None:
    phones = [f"+2547110{number:05d}" for number in range(20)]
    with open_inbox(database, settings) as one, open_inbox(database, settings) as other:
        at_once(
            [
                lambda inbox=inbox, phone=phone: inbox.receive("opt_out", form(phoneNumber=phone))
                for inbox in (one, other)
                for phone in phones
            ]
        )
    assert [row.phone for row in all_rows(database, tables.suppressions)] == phones
    assert len(ledger(database, limit=100)) == 20
