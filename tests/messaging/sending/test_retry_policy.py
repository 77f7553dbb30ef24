from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.sending import retry_policy
from utils.reasons import DO_NOT_DISTURB

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tries", "seconds"), [(1, 5), (2, 10), (3, 20), (4, 40), (7, 320), (8, 600), (9, 600), (1000, 600)]
)
def test_the_wait_doubles_up_to_ten_minutes(tries: int, seconds: int) -> None:
    assert retry_policy.wait_before_try(tries, jitter=1) == timedelta(seconds=seconds)


@given(st.integers(min_value=0, max_value=100_000))
def test_the_jitter_leaves_between_half_and_the_whole_of_a_step(tries: int) -> None:
    whole = retry_policy.wait_before_try(tries, jitter=1)
    assert whole / 2 <= retry_policy.wait_before_try(tries) <= whole


def test_two_rows_do_not_come_back_at_one_moment() -> None:
    assert len({retry_policy.wait_before_try(5) for _ in range(20)}) > 10


def test_a_text_is_given_up_after_a_day_of_tries() -> None:
    a_day_ago = NOW - timedelta(hours=24)
    assert retry_policy.is_given_up(a_day_ago, NOW, retry_policy.FEWEST_TRIES, "connection_failed")
    assert not retry_policy.is_given_up(a_day_ago + timedelta(seconds=1), NOW, 1000, "connection_failed")


def test_a_text_that_waited_for_its_time_is_not_given_up_at_its_first_failure() -> None:
    written_a_week_ago = NOW - timedelta(days=7)
    assert not retry_policy.is_given_up(written_a_week_ago, NOW, 1, "connection_failed")
    assert not retry_policy.is_given_up(
        written_a_week_ago, NOW, retry_policy.FEWEST_TRIES - 1, "connection_failed"
    )


def test_the_tries_of_an_old_text_reach_over_an_outage_of_two_hours() -> None:
    shortest = [
        retry_policy.wait_before_try(tries, jitter=0.5) for tries in range(1, retry_policy.FEWEST_TRIES)
    ]
    assert sum(shortest, timedelta()) > timedelta(hours=1, minutes=45)


def test_three_mornings_of_a_curfew_are_enough() -> None:
    two_days_ago = NOW - timedelta(days=2)
    assert not retry_policy.is_given_up(two_days_ago, NOW, 2, DO_NOT_DISTURB)
    assert retry_policy.is_given_up(two_days_ago, NOW, 3, DO_NOT_DISTURB)


@pytest.mark.parametrize(
    ("refused_at", "due_at"),
    [
        # Lagos is an hour before UTC all year.
        (datetime(2026, 11, 24, 19, 30, tzinfo=UTC), datetime(2026, 11, 25, 7, 1, tzinfo=UTC)),
        (datetime(2026, 11, 24, 23, 30, tzinfo=UTC), datetime(2026, 11, 25, 7, 1, tzinfo=UTC)),
        (datetime(2026, 11, 25, 2, 0, tzinfo=UTC), datetime(2026, 11, 25, 7, 1, tzinfo=UTC)),
        (datetime(2026, 11, 25, 7, 0, 59, tzinfo=UTC), datetime(2026, 11, 25, 7, 1, tzinfo=UTC)),
        # In the day it is no curfew, but AT said so: tomorrow then.
        (datetime(2026, 11, 25, 7, 1, tzinfo=UTC), datetime(2026, 11, 26, 7, 1, tzinfo=UTC)),
        (datetime(2026, 12, 31, 22, 0, tzinfo=UTC), datetime(2027, 1, 1, 7, 1, tzinfo=UTC)),
    ],
)
def test_a_curfew_ends_the_next_morning_in_lagos(refused_at: datetime, due_at: datetime) -> None:
    assert retry_policy.end_of_curfew(refused_at) == due_at


@given(st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2050, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_curfew_always_ends_later_and_within_a_day(now: datetime) -> None:
    assert now < retry_policy.end_of_curfew(now) <= now + timedelta(days=1)
