from __future__ import annotations

import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from messaging.sending import claim as claims
from messaging.sending import due, start_post
from messaging.sending.claim import Claim, ClaimLimits
from messaging.sending.last_check import Released
from messaging.sending.start_post import Posting
from messaging.storage import tables
from messaging.storage.clocks import utc_now, wall_clock
from messaging.storage.database import Database
from tests.support.databases import opened
from tests.support.delivery import (
    LEASE,
    WORKER,
    Clock,
    begin,
    begin_posting,
    change,
    claim,
    claim_as,
    claim_one,
    every,
    message,
    new_batch,
    phone,
    phones,
    queue,
    queue_batch,
    statuses_of,
)
from tests.support.group_commits import in_one_group

pytest_plugins = ["tests.support.delivery_fixtures"]


def texts(claimed: list[Claim]) -> list[str]:
    return [one.text for one in claimed]


def test_of_three_quick_texts_to_one_person_one_is_claimed_at_a_time(database: Database) -> None:
    ids = [queue(database, phone(1), text=text)[0] for text in ("one", "two", "three")]
    for number, text in enumerate(("one", "two", "three")):
        one = claim_one(database)
        assert one.text == text
        assert claim(database) == []
        begin_posting(database, one)
        assert claim(database) == []
        change(database, tables.messages, ids[number], status="accepted")
    assert claim(database) == []


def test_a_text_that_waits_for_another_does_not_count_as_due(database: Database) -> None:
    queue(database, phone(1), text="one")
    claim_one(database)
    queue(database, phone(1), text="two")
    assert not due.has_due(database)
    assert not due.has_urgent(database)


def test_other_people_and_other_senders_do_not_wait(database: Database) -> None:
    queue(database, phone(1), text="one")
    claim_one(database)
    queue(database, phone(1), text="other sender", sender_id="ACME")
    queue(database, phone(2), text="other person")
    assert set(texts(claim(database))) == {"other sender", "other person"}


def test_what_comes_again_soon_holds_up_what_is_behind_it(database: Database) -> None:
    """A refused connection: the first text waits for its next try, and the second for the first."""
    first, _ = (queue(database, phone(1), text=text)[0] for text in ("one", "two"))
    change(database, tables.messages, first, tries=1, due_at=utc_now() + timedelta(minutes=9))
    assert claim(database) == []


@pytest.mark.parametrize(
    "values",
    [
        {"status": "unknown"},
        {"status": "held"},
        {"due_in": timedelta(hours=1)},
        {"due_in": timedelta(minutes=5), "due_by_wall": True},
        {"due_in": timedelta(minutes=5), "due_by_wall": True, "tries": 1},
        {"due_in": timedelta(minutes=15), "tries": 3},
    ],
    ids=["unknown", "held", "later", "scheduled", "curfew", "long backoff"],
)
def test_what_waits_for_long_holds_up_nobody(database: Database, values: dict[str, Any]) -> None:
    first, _ = (queue(database, phone(1), text=text)[0] for text in ("one", "two"))
    due_at = utc_now() + values.get("due_in", timedelta())
    others = {name: value for name, value in values.items() if name != "due_in"}
    change(database, tables.messages, first, due_at=due_at, **others)
    assert texts(claim(database)) == ["two"]


def test_a_paused_batch_holds_up_no_other_batch(database: Database) -> None:
    queue_batch(database, [phone(1)], text="paused")
    change(database, tables.batches, every(database, tables.batches)[0].id, status="paused")
    queue_batch(database, [phone(1)], text="goes")
    assert texts(claim(database)) == ["goes"]


def test_urgent_texts_pass_bulk_that_is_queued_or_claimed_but_not_bulk_in_flight(database: Database) -> None:
    queue_batch(database, [phone(1)], text="bulk")
    bulk = claim_one(database)
    queue(database, phone(1), text="urgent")
    urgent = claim_one(database)
    begin_posting(database, bulk)
    assert begin(database, urgent) == Released("nobody_left")
    assert claim(database) == []
    assert statuses_of(database) == ["sending", "queued"]


def test_bulk_that_was_claimed_before_an_urgent_text_left_waits_for_it(database: Database) -> None:
    bulk_id = queue(database, phone(1), text="bulk", batch_id=new_batch(database), priority=5)[0]
    bulk = claim_one(database)
    queue(database, phone(1), text="urgent")
    begin_posting(database, claim_one(database))
    assert begin(database, bulk) == Released("nobody_left")
    assert message(database, bulk_id).status == "queued"


def test_of_a_shared_post_only_those_wait_whose_turn_it_is_not(database: Database) -> None:
    queue_batch(database, phones(3), text="bulk")
    bulk = claim_one(database)
    queue(database, phone(2), text="urgent")
    begin_posting(database, claim_one(database))
    assert list(begin_posting(database, bulk).claim.recipients) == [phone(1), phone(3)]


def test_what_became_due_after_the_claim_goes_first(database: Database, clock: Clock) -> None:
    """The later text was claimed while the earlier one was not due; at the last check it is."""
    early, late = (queue(database, phone(1), text=text)[0] for text in ("one", "two"))
    change(database, tables.messages, early, due_at=utc_now() + timedelta(minutes=20), tries=1)
    second = claim_one(database)
    assert list(second.recipients.values()) == [late]
    change(database, tables.messages, early, due_at=utc_now())
    assert begin(database, second) == Released("nobody_left")
    assert claim_one(database).text == "one"


def test_two_that_begin_in_one_group_do_not_both_leave(database: Database) -> None:
    """Neither sees the other's mark: threads that begin together share a transaction."""
    queue_batch(database, [phone(1)], text="bulk")
    bulk = claim_one(database)
    queue(database, phone(1), text="urgent")
    both = [bulk, claim_one(database)]
    calls = [partial(begin, database, one) for one in both]
    found = in_one_group(database.group_commit, start_post._begin_postings, calls)
    assert sorted(type(one).__name__ for one in found) == ["Posting", "Released"]
    assert [isinstance(one, Posting) for one in found].count(True) == 1


def test_a_second_worker_does_not_take_the_text_behind_one_that_is_being_claimed(database: Database) -> None:
    """SKIP LOCKED alone would skip the first and take the second."""
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    # The first claim of all makes the row of the circuit breaker, for which the next one would wait.
    claim(database)
    for text in ("one", "two"):
        queue(database, phone(1), text=text)
    limits = ClaimLimits(500, LEASE)
    with database.write() as connection:
        now = wall_clock(connection)
        assert len(claims.take(connection, WORKER, limits, now).claims) == 1
        with opened(
            database.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
        ) as other:
            assert claims.claim_due(other, "another", limits).claims == []


def test_one_person_with_many_rows_in_a_batch_does_not_hide_the_others(database: Database) -> None:
    batch_id = new_batch(database)
    for number in range(600):
        queue(database, phone(1), text=f"part {number}", batch_id=batch_id, priority=5)
    queue(database, *phones(3, first=2), text="others", batch_id=batch_id, priority=5)
    taken = claim(database)
    assert {recipient for one in taken for recipient in one.recipients} == {phone(1), *phones(3, first=2)}
    assert sum(len(one.recipients) for one in taken) == 4


def test_a_batch_of_which_all_rows_wait_is_not_read_to_its_end_by_every_claim(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches to the same people: each claim that looked at the second one first read all of it, for nothing."""
    monkeypatch.setattr(due, "LONG_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(due, "MANY_ROWS", 0)
    monkeypatch.setattr(due, "RESTS_FOR_ITS_LOOK", 1e9)
    queue_batch(database, phones(40), text="first")
    second = queue_batch(database, phones(40), text="second")
    looks: list[int] = []
    take_share = due._take_share

    def note_and_take(*arguments: Any) -> bool:
        looks.append(arguments[-2].get("batch_id"))
        return take_share(*arguments)

    monkeypatch.setattr(due, "_take_share", note_and_take)
    limits = ClaimLimits(1, LEASE, posts=1)
    for _ in range(30):
        assert texts(claim_as(database, WORKER, limits)) == ["first"]
    assert looks.count(second) <= 1


def test_a_batch_that_rested_is_looked_at_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "LONG_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(due, "MANY_ROWS", 0)
    monkeypatch.setattr(due, "LONGEST_REST_SECONDS", 0.2)
    monkeypatch.setattr(due, "RESTS_FOR_ITS_LOOK", 1e9)
    first = queue(database, phone(1), text="first", batch_id=new_batch(database), priority=5)[0]
    limits = ClaimLimits(500, LEASE)
    assert texts(claim_as(database, WORKER, limits)) == ["first"]
    queue_batch(database, [phone(1)], text="second")
    assert claim_as(database, WORKER, limits) == []
    change(database, tables.messages, first, status="accepted")
    assert not due.has_due(database, limits.looks)
    assert due.has_due(database)
    time.sleep(0.2)
    assert due.has_due(database, limits.looks)
    assert texts(claim_as(database, WORKER, limits)) == ["second"]
