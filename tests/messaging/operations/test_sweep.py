from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta

import pytest

from messaging.messages import idempotency
from messaging.operations import sweep
from messaging.sending import claim as claims
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.delivery import (
    LEASE,
    Clock,
    attempt,
    begin,
    begin_posting,
    change,
    claim,
    claim_as,
    claim_one,
    count,
    every,
    history,
    in_write,
    message,
    phone,
    phones,
    post,
    post_to,
    queue,
    queue_batch,
    statuses_of,
)
from tests.support.delivery_processes import SPAWN, claim_and_hold, process
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

PAST_LEASE = LEASE.total_seconds() + 1


def test_what_was_claimed_and_not_posted_goes_back_to_the_queue(database: Database, clock: Clock) -> None:
    ids = queue(database, *phones(3))
    one = claim_one(database)
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (3, 0)
    assert statuses_of(database) == ["queued"] * 3
    assert [message(database, each).tries for each in ids] == [0] * 3
    assert attempt(database, one.attempt_id).state == "released"
    assert sorted(claim_one(database).recipients.values()) == ids


def test_what_was_being_posted_is_unknown_and_is_never_claimed_again(
    database: Database, clock: Clock
) -> None:
    posting = post_to(database, *phones(2))
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (0, 2)
    for each in posting.claim.recipients.values():
        row = message(database, each)
        assert (row.status, row.reason, row.finished_at) == ("unknown", "worker_died", None)
        assert history(database, each) == [("unknown", "sweep")]
    row = attempt(database, posting.claim.attempt_id)
    assert (row.state, row.outcome, row.reason) == ("unknown", "unknown", "worker_died")
    clock.step(days=1)
    assert claim(database) == []


@pytest.mark.parametrize(
    ("on_unknown", "reason"), [("hold", "worker_died"), ("resend", "worker_died"), ("fail", "given_up")]
)
def test_a_sweep_never_resends_whatever_the_sender_of_a_text_said(
    database: Database, clock: Clock, on_unknown: str, reason: str
) -> None:
    """The worker may be merely slow, and its bytes still on their way."""
    posting = post_to(database, phone(1), on_unknown=on_unknown)
    clock.step(seconds=PAST_LEASE)
    sweep.sweep_expired_leases(database)
    row = message(database, posting.claim.recipients[phone(1)])
    assert (row.status, row.reason, row.unknown_resends) == ("unknown", reason, 0)


def test_a_lease_that_is_alive_is_left_alone(database: Database, clock: Clock) -> None:
    queue(database, phone(1), text="claimed")
    claim_one(database)
    post_to(database, phone(2))
    clock.step(seconds=LEASE.total_seconds() - 5)
    assert sweep.sweep_expired_leases(database) == (0, 0)
    assert statuses_of(database) == ["sending"] * 2


def test_posting_begins_the_lease_anew(database: Database, clock: Clock) -> None:
    queue(database, phone(1))
    one = claim_one(database)
    clock.step(seconds=LEASE.total_seconds() - 5)
    begin_posting(database, one)
    clock.step(seconds=LEASE.total_seconds() - 5)
    assert sweep.sweep_expired_leases(database) == (0, 0)


def test_the_texts_of_a_trigger_that_died_before_its_post_are_cancelled(
    database: Database, clock: Clock
) -> None:
    ids = queue(database, *phones(2))
    one = claim_one(database)
    change(database, tables.attempts, one.attempt_id, is_trigger=True)
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (0, 0)
    assert {(message(database, each).status, message(database, each).reason) for each in ids} == {
        ("cancelled", "worker_died")
    }
    assert claim(database) == []


def test_the_texts_of_a_trigger_that_died_in_mid_post_are_unknown(database: Database, clock: Clock) -> None:
    posting = post_to(database, phone(1))
    change(database, tables.attempts, posting.claim.attempt_id, is_trigger=True)
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (0, 1)
    assert statuses_of(database) == ["unknown"]


def test_many_dead_attempts_are_found_in_one_sweep(database: Database, clock: Clock) -> None:
    for number in range(6):
        queue(database, phone(number), text=f"Dear {number}")
    claimed = claim(database)
    for one in claimed[:2]:
        begin_posting(database, one)
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (4, 2)
    assert sweep.sweep_expired_leases(database) == (0, 0)


def test_a_message_that_was_cancelled_or_reported_meanwhile_is_not_touched(
    database: Database, clock: Clock
) -> None:
    posting = post_to(database, phone(1), phone(2))
    settled = posting.claim.recipients[phone(1)]
    change(database, tables.messages, settled, status="delivered")
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (0, 1)
    assert message(database, settled).status == "delivered"


def test_a_worker_killed_after_its_claim_costs_only_the_lease(
    database: Database, at_settings: Settings, client: ProviderClient, clock: Clock
) -> None:
    queue(database, *phones(3))
    claimed, forever = SPAWN.Event(), SPAWN.Event()
    with process(claim_and_hold, at_settings, claimed, forever) as doomed:
        assert claimed.wait(30)
        doomed.kill()
        doomed.join()
    assert statuses_of(database) == ["sending"] * 3
    clock.step(seconds=PAST_LEASE)
    assert sweep.sweep_expired_leases(database) == (3, 0)
    post(database, client, begin_posting(database, claim_one(database)), 5)
    assert statuses_of(database) == ["accepted"] * 3


def test_a_message_without_a_report_for_three_days_says_so(
    database: Database, settings: Settings, client: ProviderClient, clock: Clock
) -> None:
    posting = post_to(database, phone(1))
    post(database, client, posting, 5)
    clock.step(hours=71)
    assert sweep.sweep(database, settings).no_report == 0
    clock.step(hours=2)
    assert sweep.sweep(database, settings).no_report == 1
    row = message(database, posting.claim.recipients[phone(1)])
    assert (row.status, row.reason) == ("no_report", "no_report")
    assert history(database, row.id) == [("accepted", "provider"), ("no_report", "sweep")]


def test_a_text_that_became_too_late_in_the_queue_expires(
    database: Database, settings: Settings, clock: Clock
) -> None:
    soon = utc_now() + timedelta(minutes=5)
    late, later, never = (
        queue(database, phone(1), expires_at=soon)[0],
        queue(database, phone(2), expires_at=soon + timedelta(hours=5))[0],
        queue(database, phone(3))[0],
    )
    clock.step(minutes=6)
    assert sweep.sweep(database, settings).expired == 1
    assert [message(database, each).status for each in (late, later, never)] == [
        "expired",
        "queued",
        "queued",
    ]


def test_a_text_expires_also_while_its_batch_is_paused(
    database: Database, settings: Settings, clock: Clock
) -> None:
    batch_id = queue_batch(database, phones(2), expires_at=utc_now() + timedelta(minutes=5))
    change(database, tables.batches, batch_id, status="paused")
    clock.step(minutes=6)
    assert sweep.sweep(database, settings).expired == 2


def test_more_than_one_chunk_is_settled_in_one_sweep(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "CHUNK", 3)
    queue(database, *phones(7), expires_at=utc_now() - timedelta(minutes=5))
    assert sweep.sweep(database, settings).expired == 7


def test_a_sweep_forgets_keys_after_a_day(database: Database, settings: Settings, clock: Clock) -> None:
    in_write(database, lambda connection, now: idempotency.begin(connection, "r", "old", b"x" * 32, now))
    clock.step(hours=23)
    in_write(database, lambda connection, now: idempotency.begin(connection, "r", "new", b"x" * 32, now))
    sweep.sweep(database, settings)
    assert count(database, tables.idempotency_keys) == 2
    clock.step(hours=2)
    sweep.sweep(database, settings)
    assert [row.key for row in every(database, tables.idempotency_keys)] == ["new"]


def test_a_sweep_of_clean_books_changes_nothing(database: Database, settings: Settings) -> None:
    queue(database, phone(1))
    swept = sweep.sweep(database, settings)
    assert (swept.requeued, swept.unknown, swept.expired, swept.no_report) == (0, 0, 0, 0)
    assert statuses_of(database) == ["queued"]


def test_two_sweeps_at_once_settle_each_row_once(database: Database, clock: Clock) -> None:
    for number in range(12):
        queue(database, phone(number), text=f"Dear {number}")
    for one in claim(database)[:6]:
        begin_posting(database, one)
    clock.step(seconds=PAST_LEASE)
    swept: list[tuple[int, int]] = []
    threads = [
        threading.Thread(target=lambda: swept.append(sweep.sweep_expired_leases(database))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (sum(requeued for requeued, _ in swept), sum(unknown for _, unknown in swept)) == (6, 6)
    unknown = [row.id for row in every(database, tables.messages) if row.status == "unknown"]
    assert [history(database, each) for each in unknown] == [[("unknown", "sweep")]] * 6


def test_a_swept_claim_and_its_sleeping_worker_never_both_send(database: Database, clock: Clock) -> None:
    queue(database, phone(1))
    sleeper = claim_one(database)
    clock.step(seconds=PAST_LEASE)
    sweep.sweep_expired_leases(database)
    awake = claim_one(database)
    turns = [begin(database, one) for one in (sleeper, awake)]
    assert Counter(type(turn).__name__ for turn in turns) == {"Released": 1, "Posting": 1}
    assert claim_as(database, "w", claims.ClaimLimits(1, LEASE)) == []
