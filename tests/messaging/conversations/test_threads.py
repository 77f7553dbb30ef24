from __future__ import annotations

from functools import partial

from messaging.conversations import threads
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.callback_rows import OTHER_PHONE, PHONE, all_rows, at_once, inbound, open_inbox
from utils.settings import Settings


def test_texts_of_two_people_over_several_inboxes_are_each_counted_once(
    database: Database, settings: Settings
) -> None:
    with open_inbox(database, settings) as one, open_inbox(database, settings) as two:
        at_once(
            [
                partial(inbox.receive, "inbound", inbound("hello", f"in-{number}", phone))
                for number, (inbox, phone) in enumerate(
                    [(inbox, phone) for phone in (PHONE, OTHER_PHONE) for inbox in (one, two)] * 4
                )
            ]
        )
    ids = {row.sender: row.id for row in all_rows(database, tables.inbound_messages)}
    assert {
        row.phone: (row.unread, row.last_inbound_id) for row in all_rows(database, tables.conversations)
    } == {phone: (8, ids[phone]) for phone in (PHONE, OTHER_PHONE)}


def test_what_comes_while_somebody_reads_stays_unread(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("inbound", inbound("first", "in-0"))
        seen = all_rows(database, tables.inbound_messages)[0].id
        at_once(
            [
                *(
                    partial(inbox.receive, "inbound", inbound("more", f"in-{number}"))
                    for number in range(1, 9)
                ),
                *[partial(threads.mark_read, database, PHONE, seen)] * 4,
            ]
        )
        assert all_rows(database, tables.conversations)[0].unread == 8
    assert threads.mark_read(database, PHONE) == 0


def test_a_text_that_is_applied_late_does_not_become_the_last_one(database: Database) -> None:
    """On PostgreSQL the lower of two ids may be committed after the higher one."""
    now = threads.Heard(PHONE, "20880", 7, utc_now())
    with database.write() as connection:
        threads.heard(connection, [now])
        threads.heard(connection, [now._replace(number="40404", inbound_id=6)])
    (row,) = all_rows(database, tables.conversations)
    assert (row.number, row.last_inbound_id, row.unread) == ("20880", 7, 2)
