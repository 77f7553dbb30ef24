from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest
from sqlalchemy import event

from messaging.messages import pause_names
from messaging.sending import circuit_breaker, due, pauses
from messaging.sending import claim as claims
from messaging.sending.claim import Claim, ClaimLimits
from messaging.storage import tables
from messaging.storage.clocks import utc_now, wall_clock
from messaging.storage.database import Database
from tests.support.delivery import (
    LEASE,
    WORKER,
    Clock,
    attempt,
    change,
    claim,
    claim_as,
    claim_one,
    count,
    every,
    history,
    in_write,
    message,
    message_to,
    new_batch,
    opt_out,
    phone,
    phones,
    queue,
    queue_batch,
    statuses_of,
)
from tests.support.delivery_processes import claim_all, in_processes
from utils.settings import Settings

pytest_plugins = ["tests.support.delivery_fixtures"]


def pause(database: Database, name: str) -> None:
    in_write(database, lambda connection, now: pauses.pause(connection, name, "why", None, now))


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """What is asked of the store, with its parameters, until the end of the block."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, given: Any, *_rest: Any) -> None:
        asked.append((statement, given))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def ids_of(claimed: list[Claim]) -> list[int]:
    return [message_id for one in claimed for message_id in one.recipients.values()]


def test_equal_texts_from_one_sender_share_an_attempt(database: Database) -> None:
    ids = queue(database, *phones(3), sender_id="ACME")
    one = claim_one(database)
    assert one.recipients == dict(zip(phones(3), ids, strict=True))
    assert (one.text, one.sender_id) == ("Hello", "ACME")
    assert set(statuses_of(database)) == {"sending"}
    assert {row.attempt_id for row in every(database, tables.messages)} == {one.attempt_id}


def test_an_attempt_names_its_worker_its_size_and_the_end_of_its_lease(database: Database) -> None:
    queue(database, *phones(3), sender_id="ACME")
    row = attempt(database, claim_one(database).attempt_id)
    assert (row.state, row.worker, row.message_count, row.sender_id) == ("claimed", WORKER, 3, "ACME")
    assert row.lease_until - row.claimed_at == LEASE
    assert row.posting_at is None


def test_a_post_takes_no_more_recipients_than_the_limit(database: Database) -> None:
    queue(database, *phones(7))
    sizes = []
    while claimed := claim(database, recipients=3):
        sizes += [len(one.recipients) for one in claimed]
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("other", [{"text": "Else"}, {"sender_id": "ACME"}])
def test_another_text_or_sender_goes_into_another_post(database: Database, other: dict[str, str]) -> None:
    queue(database, phone(1))
    queue(database, phone(2), **other)
    assert [len(one.recipients) for one in claim(database)] == [1, 1]


def test_the_same_number_twice_goes_into_two_posts(database: Database) -> None:
    """One POST with a number twice would get one answer for two messages."""
    ids = queue(database, phone(1), phone(2), phone(1), phone(3))
    assert claim_one(database).recipients == {phone(1): ids[0], phone(2): ids[1], phone(3): ids[3]}
    assert claim(database) == []
    settle(database, *ids[:2])
    assert claim_one(database).recipients == {phone(1): ids[2]}


def test_an_answer_with_a_link_id_goes_alone(database: Database) -> None:
    queue(database, phone(1), phone(2), link_id="L1")
    queue(database, phone(3), link_id="L2")
    claimed = claim(database)
    assert [(one.link_id, len(one.recipients)) for one in claimed] == [("L1", 1), ("L1", 1), ("L2", 1)]


def test_a_reply_goes_before_a_single_and_a_single_before_bulk(database: Database) -> None:
    queue_batch(database, phones(2, first=20), text="bulk")
    queue(database, phone(2), text="single", priority=1)
    queue(database, phone(1), text="reply", priority=0)
    claimed = claim(database)
    assert [one.text for one in claimed] == ["reply", "single", "bulk"]
    assert [one.urgent for one in claimed] == [True, True, False]


def test_a_claim_full_of_urgent_texts_leaves_bulk_for_the_next(database: Database) -> None:
    queue_batch(database, phones(2, first=20), text="bulk")
    queue(database, *phones(2), text="single")
    assert [one.text for one in claim(database, posts=1)] == ["single"]
    assert [one.text for one in claim(database, posts=1)] == ["bulk"]


def test_urgent_and_bulk_never_share_a_post_though_the_text_is_one(database: Database) -> None:
    queue_batch(database, phones(2, first=20), text="Same")
    queue(database, phone(1), text="Same")
    assert [(one.urgent, len(one.recipients)) for one in claim(database)] == [(True, 1), (False, 2)]


def test_a_claim_for_urgent_texts_leaves_bulk_alone(database: Database) -> None:
    queue_batch(database, phones(2, first=20))
    limits = ClaimLimits(500, LEASE)
    assert claim_as(database, WORKER, limits, urgent_only=True) == []
    queue(database, phone(1))
    assert [one.urgent for one in claim_as(database, WORKER, limits, urgent_only=True)] == [True]


def test_of_equal_priority_what_was_due_first_goes_first(database: Database) -> None:
    now = utc_now()
    for minutes in (1, 3, 2):
        queue(database, phone(minutes), text=str(minutes), due_at=now - timedelta(minutes=minutes))
    assert [one.text for one in claim(database)] == ["3", "2", "1"]


def test_rows_that_a_claim_read_but_cannot_post_are_left_for_other_lanes(database: Database) -> None:
    """Few people to each text: many more POSTs than one lane makes at a time."""
    batch_id = new_batch(database)
    for number in range(10):
        queue(database, *phones(3, first=3 * number), text=f"Text {number}", batch_id=batch_id, priority=5)
    limits = ClaimLimits(500, LEASE, posts=4, lanes=16)
    left = []
    for _ in range(3):
        with database.write() as connection:
            taken = claims.take(connection, WORKER, limits, wall_clock(connection))
        left.append((len(taken.claims), taken.is_more))
    assert left == [(4, True), (4, True), (2, False)]


def test_every_batch_gets_a_share(database: Database) -> None:
    """The first one to be served is drawn by lot, so that the last upload does not wait for the first."""
    for batch in range(4):
        queue_batch(database, phones(40, first=100 * batch), text=f"batch {batch}")
    first_served = {claim(database, recipients=1, posts=1)[0].text for _ in range(60)}
    assert first_served == {"batch 0", "batch 1", "batch 2", "batch 3"}


def test_texts_of_their_own_are_claimed_for_several_posts_at_once_but_not_for_all(
    database: Database,
) -> None:
    for number in range(20):
        queue(database, phone(number), text=f"Dear {number}")
    assert [len(claim(database, posts=8)) for _ in range(4)] == [8, 8, 4, 0]


def settle(database: Database, *message_ids: int) -> None:
    """As where AT took them."""
    for one in message_ids:
        change(database, tables.messages, one, status="accepted")


def test_rows_that_found_no_place_in_a_claim_stay_queued(database: Database) -> None:
    for number in range(5):
        queue(database, phone(number), text=f"Dear {number}")
    claim(database, posts=2)
    assert sorted(statuses_of(database)) == ["queued"] * 3 + ["sending"] * 2


def test_a_paused_account_claims_nothing(database: Database) -> None:
    queue(database, phone(1))
    pause(database, pause_names.ACCOUNT)
    assert claim(database) == []
    assert statuses_of(database) == ["queued"]


@pytest.mark.parametrize("spelt", ["Acme", "ACME", "acme"])
def test_a_paused_sender_claims_nothing_however_it_is_spelt(database: Database, spelt: str) -> None:
    queue(database, phone(1), sender_id=spelt)
    queue(database, phone(2), sender_id="OTHER")
    queue(database, phone(3))
    pause(database, pause_names.sender_name("Acme"))
    assert [one.sender_id for one in claim(database)] == ["OTHER", None]
    assert message_to(database, phone(1)).status == "queued"


def test_a_pause_of_the_default_sender_holds_only_texts_without_a_sender(database: Database) -> None:
    queue(database, phone(1))
    queue(database, phone(2), sender_id="ACME")
    pause(database, pause_names.sender_name(None))
    assert [one.sender_id for one in claim(database)] == ["ACME"]


def test_a_batch_of_a_paused_sender_is_not_walked_over(database: Database) -> None:
    queue_batch(database, phones(3), sender_id="Acme")
    queue_batch(database, phones(2, first=1000), sender_id="OTHER", text="goes")
    pause(database, pause_names.sender_name("ACME"))
    with statements(database) as asked:
        assert [one.text for one in claim(database)] == ["goes"]
    assert len([statement for statement, _ in asked if "messages.batch_id = " in statement]) == 1
    assert claim(database) == []


@pytest.mark.parametrize("status", ["receiving", "paused", "cancelled", "finished"])
def test_a_batch_that_may_not_send_is_left_alone(database: Database, status: str) -> None:
    batch_id = queue_batch(database, phones(2))
    change(database, tables.batches, batch_id, status=status)
    assert claim(database) == []
    assert not due.has_due(database)


def test_a_text_for_later_waits(database: Database, clock: Clock) -> None:
    queue(database, phone(1), due_at=utc_now() + timedelta(minutes=10))
    assert claim(database) == []
    assert not due.has_due(database)
    clock.step(minutes=11)
    assert due.has_due(database)
    assert len(claim(database)) == 1


def test_a_text_that_is_too_late_expires_and_is_not_sent(database: Database) -> None:
    (late,) = queue(database, phone(1), expires_at=utc_now() - timedelta(seconds=1))
    (in_time,) = queue(database, phone(2), expires_at=utc_now() + timedelta(minutes=5))
    assert ids_of(claim(database)) == [in_time]
    row = message(database, late)
    assert (row.status, row.reason) == ("expired", "too_late")
    assert row.finished_at is not None
    assert history(database, late) == [("expired", "worker")]


def test_a_text_to_somebody_who_opted_out_is_blocked(database: Database) -> None:
    blocked, free = queue(database, phone(1), phone(2))
    opt_out(database, phone(1))
    assert ids_of(claim(database)) == [free]
    row = message(database, blocked)
    assert (row.status, row.reason) == ("blocked", "opted_out")
    assert history(database, blocked) == [("blocked", "worker")]


def test_an_opt_out_of_one_sender_does_not_block_another(database: Database) -> None:
    queue(database, phone(1), sender_id="ACME")
    queue(database, phone(1), sender_id="OTHER")
    opt_out(database, phone(1), "acme", scope="sender")
    assert [one.sender_id for one in claim(database)] == ["OTHER"]


def test_the_answer_to_stop_passes_the_block_it_confirms(database: Database) -> None:
    opt_out(database, phone(1))
    (confirmation,) = queue(database, phone(1), text="You will get no more", passes_opt_out=True)
    queue(database, phone(1), text="Sale")
    assert ids_of(claim(database)) == [confirmation]


def test_a_page_of_blocked_rows_does_not_hide_what_is_due_behind_it(database: Database) -> None:
    woken: list[None] = []
    queue(database, *phones(3))
    (behind,) = queue(database, phone(9))
    for blocked in phones(3):
        opt_out(database, blocked)
    database.wake = lambda: woken.append(None)
    assert claim(database, recipients=3, posts=1) == []
    assert woken == [None]
    assert ids_of(claim(database, recipients=3, posts=1)) == [behind]


def test_a_half_open_breaker_takes_one_message_a_step(database: Database, clock: Clock) -> None:
    queue(database, *phones(5))
    in_write(database, lambda connection, now: circuit_breaker.no_answer(connection, now, now))
    assert claim(database) == []
    clock.step(seconds=6)
    one = claim_one(database)
    assert (len(one.recipients), one.is_probe) == (1, True)
    assert claim(database) == []


def test_nothing_due_writes_no_attempt(database: Database) -> None:
    assert claim(database) == []
    assert count(database, tables.attempts) == 0


def test_a_look_for_what_is_due_tells_urgent_from_bulk(database: Database) -> None:
    assert not due.has_due(database)
    queue_batch(database, phones(1))
    assert (due.has_due(database), due.has_urgent(database)) == (True, False)
    queue(database, phone(9))
    assert due.has_urgent(database)


def test_a_look_at_the_queue_reads_no_table_from_end_to_end(database: Database) -> None:
    """SQLite takes a partial index only where the condition is in the index's own words."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL decides by the size of the tables")
    new_batch(database)
    with statements(database) as asked:
        claim(database)
        due.has_due(database)
        queue_batch(database, phones(2))
        claim(database)
    selects = [(statement, given) for statement, given in asked if statement.lstrip()[:4] in ("SELE", "WITH")]
    assert len(selects) > 5
    with database.read() as connection:
        for statement, given in selects:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
            steps = {row[3] for row in plan}
            assert not steps & {"SCAN messages", "SCAN attempts"}, statement
            # So SQLite calls the search for a least value, also where that reads every row.
            assert "SEARCH attempts" not in steps or "max(attempts.id)" in statement, statement


def test_threads_that_claim_at_once_never_get_the_same_row(database: Database) -> None:
    ids = queue(database, *phones(300))
    claimed: list[list[int]] = [[] for _ in range(4)]

    def work(mine: list[int]) -> None:
        while found := claim(database, recipients=5, posts=1):
            mine += ids_of(found)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in claimed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(chain.from_iterable(claimed)) == ids


def test_processes_that_claim_at_once_never_get_the_same_row(
    database: Database, at_settings: Settings
) -> None:
    ids = queue(database, *phones(300))
    limits = ClaimLimits(5, LEASE, posts=1)
    claimed = in_processes(claim_all, [(at_settings, f"worker {place}", limits) for place in range(2)])
    assert sorted(chain.from_iterable(claimed)) == ids
