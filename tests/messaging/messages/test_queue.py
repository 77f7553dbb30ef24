from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest

from messaging.messages.queue import INSERT_CHUNK, NewMessage, enqueue
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.delivery import count, every, message, phone, phones, queue


def test_a_message_is_queued_as_it_was_given(database: Database) -> None:
    later = utc_now() + timedelta(hours=1)
    (one,) = queue(
        database, phone(1), text="Hé 🎉", sender_id="ACME", on_unknown="fail", due_at=later, link_id="L1"
    )
    row = message(database, one)
    assert (row.recipient, row.text, row.sender_id, row.status) == (phone(1), "Hé 🎉", "ACME", "queued")
    assert (row.on_unknown, row.due_at, row.link_id, row.tries) == ("fail", later, "L1", 0)
    assert row.finished_at is row.provider_message_id is row.attempt_id is None


def test_without_a_time_a_message_is_due_at_once(database: Database) -> None:
    (one,) = queue(database, phone(1))
    row = message(database, one)
    assert row.due_at == row.created_at


def test_the_ids_come_back_in_the_order_of_the_messages(database: Database) -> None:
    wanted = phones(INSERT_CHUNK + 3)
    ids = queue(database, *wanted)
    rows = {row.id: row.recipient for row in every(database, tables.messages)}
    assert [rows[one] for one in ids] == wanted


def test_an_empty_list_writes_nothing_and_wakes_nobody(database: Database) -> None:
    woken: list[None] = []
    database.wake = lambda: woken.append(None)
    with database.write() as connection:
        assert enqueue(connection, []) == []
    assert woken == []


@pytest.mark.parametrize(("status", "wakes"), [("queued", 1), ("sending", 0), ("blocked", 0)])
def test_only_what_a_worker_may_send_wakes_one(database: Database, status: str, wakes: int) -> None:
    woken: list[None] = []
    database.wake = lambda: woken.append(None)
    with database.write() as connection:
        enqueue(connection, [NewMessage(phone(1), "Hello")], status=status)
    assert len(woken) == wakes


def test_the_rows_are_gone_with_the_callers_transaction(database: Database) -> None:
    with suppress(LookupError), database.write() as connection:
        enqueue(connection, [NewMessage(phone(1), "Hello")])
        raise LookupError
    assert count(database, tables.messages) == 0
