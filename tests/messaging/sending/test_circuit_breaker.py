from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection

from messaging.sending import circuit_breaker
from messaging.sending.circuit_breaker import FIRST_STEP, LONGEST_BREAK, Circuit
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import (
    Clock,
    begin_posting,
    change,
    claim,
    claim_one,
    in_write,
    phone,
    phones,
    queue,
)

pytest_plugins = ["tests.support.delivery_fixtures"]


def circuit(database: Database) -> Circuit:
    found: Circuit = in_write(database, circuit_breaker.current)
    return found


def waits(database: Database) -> bool:
    return bool(
        in_write(database, lambda connection, now: circuit_breaker.current(connection, now).waits(now))
    )


def lose_answer(database: Database, posting_at: datetime | None = None) -> None:
    in_write(database, lambda connection, now: circuit_breaker.no_answer(connection, posting_at or now, now))


def answer(database: Database) -> None:
    in_write(database, circuit_breaker.answered)


def ask_for_a_break(database: Database, **duration: float) -> None:
    def hold(connection: Connection, now: datetime) -> None:
        circuit_breaker.hold_until(connection, now + timedelta(**duration), now)

    in_write(database, hold)


def test_the_breaker_is_closed_at_first(database: Database) -> None:
    assert not circuit(database).is_half_open
    assert not waits(database)


def test_one_lost_answer_opens_the_breaker_for_a_step(database: Database, clock: Clock) -> None:
    lose_answer(database)
    assert circuit(database).is_half_open
    assert waits(database)
    clock.step(seconds=FIRST_STEP.total_seconds() + 1)
    assert circuit(database).is_half_open
    assert not waits(database)


def test_an_answer_closes_the_breaker_at_once(database: Database) -> None:
    lose_answer(database)
    answer(database)
    assert not circuit(database).is_half_open
    assert not waits(database)


def test_posts_that_were_on_their_way_do_not_count_twice(database: Database, clock: Clock) -> None:
    before = in_write(database, lambda _, now: now)
    clock.step(seconds=1)
    for _ in range(4):
        lose_answer(database, posting_at=before)
    assert circuit(database).step == 1


def test_each_lost_answer_of_a_later_post_doubles_the_step(database: Database, clock: Clock) -> None:
    steps = []
    for _ in range(9):
        lose_answer(database)
        found, now = circuit(database), in_write(database, lambda _, now: now)
        steps.append(round((found.next_post_at - now).total_seconds()))
        clock.step(minutes=10)
    assert steps == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_two_lost_answers_in_a_row_alarm(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    lose_answer(database)
    assert [record.levelname for record in caplog.records] == []
    lose_answer(database)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_half_open_breaker_lets_one_post_through_a_step(database: Database, clock: Clock) -> None:
    queue(database, *phones(30))
    lose_answer(database)
    sizes = []
    for _ in range(60):
        clock.step(seconds=1)
        sizes += [len(one.recipients) for one in claim(database)]
    assert set(sizes) == {1}
    assert 9 <= len(sizes) <= 12


def test_a_half_open_breaker_without_a_lost_answer_lets_one_message_leave_at_once(
    database: Database, clock: Clock
) -> None:
    queue(database, *phones(5))
    in_write(database, circuit_breaker.half_open)
    assert [len(one.recipients) for one in claim(database)] == [1]
    assert claim(database) == []
    answer(database)
    assert [len(one.recipients) for one in claim(database)] == [4]


def test_a_breaker_that_lost_answers_opened_is_not_eased_by_opening_it_again(
    database: Database, clock: Clock
) -> None:
    for _ in range(3):
        lose_answer(database)
    in_write(database, circuit_breaker.half_open)
    assert circuit(database).step == 3
    assert waits(database)


def test_a_break_that_at_asked_for_is_kept(database: Database, clock: Clock) -> None:
    ask_for_a_break(database, seconds=30)
    assert not circuit(database).is_half_open
    assert waits(database)
    clock.step(seconds=31)
    assert not waits(database)


def test_the_answer_to_an_earlier_post_does_not_end_a_break(database: Database, clock: Clock) -> None:
    ask_for_a_break(database, seconds=30)
    answer(database)
    assert waits(database)


def test_a_lost_answer_of_an_earlier_post_does_not_cut_a_break_short(
    database: Database, clock: Clock
) -> None:
    ask_for_a_break(database, seconds=60)
    lose_answer(database)
    clock.step(seconds=59)
    assert waits(database)
    clock.step(seconds=2)
    assert not waits(database)


def test_of_two_breaks_the_longer_one_counts(database: Database, clock: Clock) -> None:
    ask_for_a_break(database, seconds=60)
    ask_for_a_break(database, seconds=5)
    clock.step(seconds=30)
    assert waits(database)
    clock.step(seconds=31)
    assert not waits(database)


def test_a_break_is_an_answer_and_closes_a_half_open_breaker(database: Database, clock: Clock) -> None:
    for _ in range(8):
        lose_answer(database)
    ask_for_a_break(database, seconds=5)
    clock.step(seconds=6)
    assert not circuit(database).is_half_open
    assert not waits(database)


def test_a_break_is_as_long_as_at_asks_up_to_an_hour(database: Database, clock: Clock) -> None:
    ask_for_a_break(database, minutes=20)
    clock.step(minutes=19)
    assert waits(database)
    clock.step(minutes=2)
    assert not waits(database)
    ask_for_a_break(database, days=1)
    clock.step(seconds=LONGEST_BREAK.total_seconds() + 1)
    assert not waits(database)


def test_a_clock_that_was_stepped_back_does_not_open_the_breaker(database: Database, clock: Clock) -> None:
    lose_answer(database)
    clock.set_wall(hours=-3)
    clock.step(seconds=FIRST_STEP.total_seconds() + 1)
    assert not waits(database)


def test_a_slow_post_makes_the_breaker_half_open_until_at_answers(database: Database, clock: Clock) -> None:
    queue(database, phone(1))
    begin_posting(database, claim_one(database))
    assert not circuit(database).is_half_open
    clock.step(seconds=11)
    assert circuit(database).suspect
    queue(database, *phones(5, first=2))
    (one,) = claim(database)
    assert (len(one.recipients), one.is_probe) == (1, True)
    answer(database)
    assert not circuit(database).is_half_open


def test_a_slow_post_of_a_trigger_makes_nothing_suspect(database: Database, clock: Clock) -> None:
    """It has twenty seconds of its own, and a person who waits for it."""
    queue(database, phone(1))
    one = claim_one(database)
    begin_posting(database, one)
    change(database, tables.attempts, one.attempt_id, is_trigger=True)
    clock.step(seconds=11)
    assert not circuit(database).suspect
