from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import Connection

from messaging.messages import pause_names
from messaging.sending import circuit_breaker, last_check, pauses, start_post
from messaging.sending import claim as claims
from messaging.sending.claim import Claim, ClaimLimits
from messaging.sending.last_check import Released
from messaging.sending.rate_limit import Rates
from messaging.sending.start_post import Posting, Wait
from messaging.storage import group_commit, tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from messaging.storage.retrying import with_retries
from tests.support.databases import opened
from tests.support.delivery import (
    LEASE,
    WORKER,
    Clock,
    attempt,
    begin,
    begin_posting,
    change,
    claim,
    claim_one,
    every,
    history,
    in_write,
    message,
    opt_out,
    phone,
    phones,
    queue,
    queue_batch,
    statuses_of,
    sweep_leases,
)
from tests.support.group_commits import in_one_group
from tests.support.postgresql_proxy import AFTER, BEFORE, NEVER, PostgresqlProxy
from utils.deadlines import boot_clock

pytest_plugins = ["tests.support.delivery_fixtures"]

SLOW = Rates(1, 1000)


def pause(database: Database, name: str) -> None:
    in_write(database, lambda connection, now: pauses.pause(connection, name, "why", None, now))


def test_what_is_posted_is_marked_before_the_bytes_leave(database: Database) -> None:
    queue(database, *phones(2))
    one = claim_one(database)
    posting = begin_posting(database, one)
    row = attempt(database, one.attempt_id)
    assert (row.state, row.posting_at, row.message_count) == ("posting", posting.posting_at, 2)
    assert row.lease_until == posting.posting_at + LEASE
    assert boot_clock() < posting.not_after <= boot_clock() + LEASE.total_seconds()
    assert posting.claim.recipients == one.recipients


def test_one_claim_is_posted_once(database: Database) -> None:
    queue(database, phone(1))
    one = claim_one(database)
    begin_posting(database, one)
    assert begin(database, one) == Released("lease_ended")


def test_a_worker_that_slept_past_its_lease_does_not_post(database: Database, clock: Clock) -> None:
    queue(database, phone(1))
    one = claim_one(database)
    clock.step(seconds=LEASE.total_seconds() + 1)
    assert begin(database, one) == Released("lease_ended")
    assert attempt(database, one.attempt_id).state == "claimed"


def test_a_claim_that_a_sweep_took_back_is_not_posted_and_its_rows_go_elsewhere(
    database: Database, clock: Clock
) -> None:
    queue(database, phone(1))
    sleeper = claim_one(database)
    clock.step(seconds=LEASE.total_seconds() + 1)
    sweep_leases(database)
    other = claim_one(database)
    begin_posting(database, other)
    assert begin(database, sleeper) == Released("lease_ended")
    assert statuses_of(database) == ["sending"]
    assert every(database, tables.messages)[0].attempt_id == other.attempt_id


def test_who_opted_out_since_the_claim_is_dropped_and_blocked(database: Database) -> None:
    out, stays = queue(database, phone(1), phone(2))
    one = claim_one(database)
    opt_out(database, phone(1))
    assert begin_posting(database, one).claim.recipients == {phone(2): stays}
    assert (message(database, out).status, message(database, out).reason) == ("blocked", "opted_out")
    assert history(database, out) == [("blocked", "worker")]
    assert attempt(database, one.attempt_id).message_count == 1


def test_an_opt_out_of_another_sender_drops_nobody(database: Database) -> None:
    queue(database, phone(1), sender_id="ACME")
    one = claim_one(database)
    opt_out(database, phone(1), "OTHER", scope="sender")
    assert len(begin_posting(database, one).claim.recipients) == 1


def test_the_answer_to_stop_is_posted_all_the_same(database: Database) -> None:
    queue(database, phone(1), passes_opt_out=True)
    one = claim_one(database)
    opt_out(database, phone(1))
    assert len(begin_posting(database, one).claim.recipients) == 1


def test_who_was_cancelled_since_the_claim_is_dropped(database: Database) -> None:
    cancelled, stays = queue(database, phone(1), phone(2))
    one = claim_one(database)
    change(database, tables.messages, cancelled, status="cancelled")
    assert begin_posting(database, one).claim.recipients == {phone(2): stays}
    assert message(database, cancelled).status == "cancelled"


def test_what_has_become_too_late_since_the_claim_expires(database: Database, clock: Clock) -> None:
    late, in_time = queue(database, phone(1), phone(2))
    change(database, tables.messages, late, expires_at=utc_now() + timedelta(seconds=30))
    one = claim_one(database)
    clock.step(seconds=60)
    assert begin_posting(database, one).claim.recipients == {phone(2): in_time}
    assert (message(database, late).status, message(database, late).reason) == ("expired", "too_late")


def test_when_nobody_is_left_nothing_is_posted_and_nothing_returns_to_the_queue(database: Database) -> None:
    queue(database, phone(1), phone(2))
    one = claim_one(database)
    opt_out(database, phone(1))
    opt_out(database, phone(2))
    assert begin(database, one) == Released("nobody_left")
    assert statuses_of(database) == ["blocked", "blocked"]
    assert attempt(database, one.attempt_id).state == "released"


@pytest.mark.parametrize("name", [pause_names.ACCOUNT, pause_names.sender_name("acme")])
def test_a_pause_since_the_claim_gives_the_rows_back(database: Database, name: str) -> None:
    ids = queue(database, *phones(3), sender_id="ACME")
    one = claim_one(database)
    pause(database, name)
    assert begin(database, one) == Released("paused")
    assert statuses_of(database) == ["queued"] * 3
    assert [message(database, each).attempt_id for each in ids] == [None] * 3
    assert [message(database, each).tries for each in ids] == [0] * 3


def test_a_pause_of_another_sender_holds_nothing(database: Database) -> None:
    queue(database, phone(1), sender_id="ACME")
    one = claim_one(database)
    pause(database, pause_names.sender_name("OTHER"))
    begin_posting(database, one)


def test_a_road_that_narrowed_since_the_claim_gives_the_rows_back(database: Database) -> None:
    queue(database, *phones(3))
    one = claim_one(database)
    in_write(database, lambda connection, now: circuit_breaker.no_answer(connection, now, now))
    assert begin(database, one) == Released("circuit_open")
    assert statuses_of(database) == ["queued"] * 3


def test_a_claim_for_many_does_not_leave_by_a_narrow_road_though_a_step_is_over(
    database: Database, clock: Clock
) -> None:
    queue(database, *phones(3))
    one = claim_one(database)
    in_write(database, lambda connection, now: circuit_breaker.no_answer(connection, now, now))
    clock.step(seconds=6)
    assert begin(database, one) == Released("circuit_open")
    assert [len(each.recipients) for each in claim(database)] == [1]


def test_a_break_that_at_asked_for_since_the_claim_gives_the_rows_back(
    database: Database, clock: Clock
) -> None:
    """A worker claims several POSTs at once: one 429 holds the others back too."""
    queue(database, *phones(3))
    one = claim_one(database)
    in_write(
        database,
        lambda connection, now: circuit_breaker.hold_until(connection, now + timedelta(seconds=30), now),
    )
    assert begin(database, one) == Released("circuit_open")
    assert claim(database) == []
    clock.step(seconds=31)
    begin_posting(database, claim_one(database))


def test_the_one_post_of_a_step_may_leave_though_the_road_is_narrow(database: Database, clock: Clock) -> None:
    queue(database, *phones(3))
    in_write(database, lambda connection, now: circuit_breaker.no_answer(connection, now, now))
    clock.step(seconds=6)
    begin_posting(database, claim_one(database))


def test_a_pace_that_is_used_up_makes_the_claim_wait_and_keeps_it(database: Database) -> None:
    queue(database, phone(1), text="one")
    queue_batch(database, phones(1, first=2))
    first, second = claim(database)
    assert not isinstance(begin(database, first, SLOW), Wait)
    turn = begin(database, second, SLOW)
    assert isinstance(turn, Wait)
    assert 0 < turn.seconds <= 1
    assert attempt(database, second.attempt_id).state == "claimed"
    assert set(statuses_of(database)) == {"sending"}


def test_an_urgent_text_does_not_wait_behind_bulk(database: Database) -> None:
    queue_batch(database, phones(2))
    bulk = claim_one(database)
    begin(database, bulk, SLOW)
    queue(database, phone(9))
    assert not isinstance(begin(database, claim_one(database), SLOW), Wait)


def test_rows_that_are_given_back_wake_a_worker(database: Database) -> None:
    queue(database, phone(1))
    one = claim_one(database)
    woken: list[None] = []
    database.wake = lambda: woken.append(None)
    in_write(database, lambda connection, _: last_check.release(connection, one.attempt_id))
    assert woken == [None]


def test_a_post_that_is_on_its_way_cannot_be_given_back(database: Database) -> None:
    queue(database, phone(1))
    one = claim_one(database)
    begin_posting(database, one)
    with database.write() as connection:
        assert last_check.release(connection, one.attempt_id) == 0
    assert attempt(database, one.attempt_id).state == "posting"
    assert statuses_of(database) == ["sending"]


def test_a_cancelled_attempt_leaves_its_texts_cancelled_and_unsent(database: Database) -> None:
    ids = queue(database, *phones(2))
    one = claim_one(database)
    in_write(database, lambda connection, now: start_post.cancel(connection, one.attempt_id, "busy", now))
    assert [message(database, each).status for each in ids] == ["cancelled"] * 2
    assert [history(database, each) for each in ids] == [[("cancelled", "worker")]] * 2
    (row,) = every(database, tables.attempts)
    assert (row.state, row.reason) == ("released", "busy")
    assert begin(database, one) == Released("lease_ended")


def test_a_post_that_is_on_its_way_cannot_be_cancelled(database: Database) -> None:
    queue(database, phone(1))
    one = claim_one(database)
    begin_posting(database, one)
    in_write(database, lambda connection, now: start_post.cancel(connection, one.attempt_id, "busy", now))
    assert attempt(database, one.attempt_id).state == "posting"
    assert statuses_of(database) == ["sending"]


def test_threads_that_ask_at_once_each_get_the_turn_of_their_own_claim(database: Database) -> None:
    for number in range(6):
        queue(database, phone(number), text=f"Dear {number}")
    claimed = claim(database)
    change(database, tables.attempts, claimed[2].attempt_id, state="released")
    calls = [partial(begin, database, one) for one in claimed]
    turns = in_one_group(database.group_commit, start_post._begin_postings, calls)
    for one, turn in zip(claimed, turns, strict=True):
        if one is claimed[2]:
            assert turn == Released("lease_ended")
        else:
            assert isinstance(turn, Posting)
            assert turn.claim == one
    assert [attempt(database, one.attempt_id).state for one in claimed] == [
        "posting" if one is not claimed[2] else "released" for one in claimed
    ]


def test_a_group_of_full_posts_asks_about_no_more_people_than_a_second_is_enough_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lanes in one group took longer than what was asked may be old: each try was stale, for ever."""
    queue_batch(database, phones(800))
    claimed = claim(database, recipients=100)
    assert len(claimed) == 8
    monkeypatch.setattr(group_commit, "HEAVIEST_GROUP", 300)
    sizes: list[int] = []
    find_alive = last_check.find_alive

    def note_and_find(connection: Connection, wanted: Sequence[Claim], now: datetime) -> Set[int]:
        sizes.append(sum(len(one.recipients) for one in wanted))
        return find_alive(connection, wanted, now)

    monkeypatch.setattr(start_post, "find_alive", note_and_find)
    calls = [partial(begin_posting, database, one) for one in claimed]
    in_one_group(database.group_commit, start_post._begin_postings, calls)
    assert max(sizes) <= 300
    assert {row.state for row in every(database, tables.attempts)} == {"posting"}


def test_a_mark_of_which_nobody_knows_whether_it_was_committed_is_made_again(database: Database) -> None:
    """The session broke at the commit. Whoever asked knows that nothing left: no text becomes unknown for it."""
    for number in range(2):
        queue(database, phone(number), text=f"Dear {number}")
    claimed = claim(database)
    write, broken = database.group_commit._write, []

    @contextmanager
    def write_and_break() -> Iterator[Connection]:
        with write() as connection:
            yield connection
        if not broken:
            broken.append(None)
            raise ConnectionError

    database.group_commit._write = write_and_break
    calls = [partial(begin_posting, database, one) for one in claimed]
    turns = in_one_group(database.group_commit, start_post._begin_postings, calls)
    assert sorted(turn.claim.attempt_id for turn in turns) == [one.attempt_id for one in claimed]
    assert {row.state for row in every(database, tables.attempts)} == {"posting"}
    assert [begin(database, one) for one in claimed] == [Released("lease_ended")] * 2


def test_a_worker_that_dies_after_its_claim_leaves_nothing_unknown(database: Database, clock: Clock) -> None:
    for number in range(3):
        queue(database, phone(number), text=f"Dear {number}")
    claim_due(database)
    clock.step(seconds=LEASE.total_seconds() + 1)
    sweep_leases(database)
    assert statuses_of(database) == ["queued"] * 3


def test_what_was_asked_long_before_its_turn_for_the_rate_limit_is_asked_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session may hold the rate limit for long, in its death for instance; a STOP may have come meanwhile."""
    queue(database, *phones(2))
    (waiting,) = claim_due(database)
    with monkeypatch.context() as late:
        late.setattr(start_post, "STALE_SECONDS", -1.0)
        assert begin(database, waiting) == Wait(0.0)
    assert attempt(database, waiting.attempt_id).state == "claimed"
    opt_out(database, phone(1))
    assert list(begin_posting(database, waiting).claim.recipients) == [phone(2)]


def test_what_is_asked_again_has_taken_nothing_of_the_rate_limit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_batch(database, phones(2))
    (waiting,) = claim_due(database)
    with monkeypatch.context() as late:
        late.setattr(start_post, "STALE_SECONDS", -1.0)
        assert begin(database, waiting, SLOW) == Wait(0.0)
    # The one POST of this second.
    assert isinstance(begin(database, waiting, SLOW), Posting)


def claim_due(database: Database) -> list[Claim]:
    return claims.claim_due(database, WORKER, ClaimLimits(500, LEASE)).claims


def test_nothing_is_claimed_or_marked_while_the_account_is_paused(database: Database) -> None:
    queue(database, phone(1))
    pause(database, pause_names.ACCOUNT)
    assert claim_due(database) == []
    assert (statuses_of(database), every(database, tables.attempts)) == (["queued"], [])


def test_who_opted_out_is_not_among_those_that_leave_at_once(database: Database) -> None:
    queue(database, *phones(3))
    opt_out(database, phone(2))
    (one,) = claim_due(database)
    assert list(one.recipients) == [phone(1), phone(3)]
    assert statuses_of(database) == ["sending", "blocked", "sending"]


def test_after_a_lost_answer_one_message_leaves_at_once(database: Database) -> None:
    queue_batch(database, phones(5))
    in_write(database, circuit_breaker.half_open)
    (one,) = claim_due(database)
    assert len(one.recipients) == 1
    assert claim_due(database) == []


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_a_claim_whose_commit_lost_its_line_is_made_once(
    database: Database, database_url: str, moment: str
) -> None:
    """No text waits for a lease to end, none becomes unknown for it, none is claimed twice."""
    ids = [one for number in range(3) for one in queue(database, phone(number), text=f"Dear {number}")]
    with PostgresqlProxy(database_url) as proxy, opened(proxy.url) as behind_proxy:
        proxy.cut_at_commit = moment
        proxy.on_cut = lambda: setattr(proxy, "cut_at_commit", NEVER)
        claimed = with_retries(lambda: claim_due(behind_proxy))
        assert proxy.cuts == 1
    assert [one.recipients for one in claimed] == [{phone(n): ids[n]} for n in range(3)]
    assert [row.state for row in every(database, tables.attempts)] == ["claimed"] * 3
    assert [message(database, one).attempt_id for one in ids] == [one.attempt_id for one in claimed]
