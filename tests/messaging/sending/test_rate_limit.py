from __future__ import annotations

from datetime import timedelta
from itertools import chain

import pytest

from messaging.sending import rate_limit
from messaging.sending.rate_limit import Rates
from messaging.sending.sender import MessageSender
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.delivery import Clock, in_write, live_settings, phones, queue_batch
from tests.support.delivery_processes import in_processes, send_all, take_tokens
from tests.support.simulator_process import SimulatorProcess
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

TEN_POSTS = Rates(10, 100_000)
HUNDRED_MESSAGES = Rates(100_000, 100)


def take(database: Database, rates: Rates, count: int = 1, *, urgent: bool = False) -> float:
    seconds: float = in_write(
        database,
        lambda connection, now: rate_limit.take(
            connection, rate_limit.lock(connection), rates, [(count, urgent)], now
        )[0],
    )
    return seconds


def taken(database: Database, clock: Clock, rates: Rates, count: int, *, seconds: float) -> list[float]:
    """When tokens were given to one who asks a hundred times a second, from 0 on."""
    moments = []
    for step in range(int(seconds * 100)):
        if take(database, rates, count) == 0:
            moments.append(step / 100)
        clock.step(seconds=0.01)
    return moments


def most_within_a_second(moments: list[float]) -> int:
    return max(sum(start <= moment < start + 1 for moment in moments) for start in moments)


@pytest.fixture
def still(database: Database, clock: Clock) -> Clock:
    """A clock that goes only where it is stepped."""
    with database.read() as connection:
        now = wall_clock(connection)
    moved = timedelta()

    class Still(Clock):
        def __init__(self) -> None:
            database.clocks.now = lambda _connection: now + moved  # type: ignore

        def step(self, **duration: float) -> None:
            nonlocal moved
            moved += timedelta(**duration)

    return Still()


def test_requests_leave_at_their_rate_and_never_bunched(database: Database, still: Clock) -> None:
    moments = taken(database, still, TEN_POSTS, 1, seconds=3)
    assert 28 <= len(moments) <= 31
    assert most_within_a_second(moments) <= 11


def test_messages_leave_at_their_rate_however_many_a_post_carries(database: Database, still: Clock) -> None:
    moments = taken(database, still, HUNDRED_MESSAGES, 25, seconds=4)
    assert 15 <= len(moments) <= 17
    assert most_within_a_second(moments) <= 5


def test_a_post_larger_than_a_seconds_worth_leaves_and_the_next_one_pays(
    database: Database, still: Clock
) -> None:
    assert take(database, HUNDRED_MESSAGES, 300) == 0
    assert take(database, HUNDRED_MESSAGES, 1) == pytest.approx(2.91, abs=0.01)
    assert take(database, HUNDRED_MESSAGES, 300) == pytest.approx(3.0, abs=0.01)
    still.step(seconds=3)
    assert take(database, HUNDRED_MESSAGES, 300) == 0


def test_a_refused_turn_takes_no_tokens(database: Database, still: Clock) -> None:
    take(database, TEN_POSTS)
    waits = [take(database, TEN_POSTS) for _ in range(5)]
    assert waits == [pytest.approx(0.1)] * 5
    still.step(seconds=0.1)
    assert take(database, TEN_POSTS) == 0


def test_an_urgent_text_does_not_wait_behind_bulk(database: Database, still: Clock) -> None:
    take(database, TEN_POSTS)
    assert take(database, TEN_POSTS) > 0
    assert take(database, TEN_POSTS, urgent=True) == 0


def test_urgent_texts_count_for_the_rate_limit_too_and_bulk_pays_for_them(
    database: Database, still: Clock
) -> None:
    urgent = [take(database, TEN_POSTS, urgent=True) for _ in range(30)]
    assert urgent.count(0) <= 11
    assert urgent[-1] > 0
    assert take(database, TEN_POSTS) > 0.9


@pytest.mark.parametrize("rate", [0.5, 1, 3])
def test_a_slow_rate_still_lets_one_leave_and_then_holds(
    database: Database, still: Clock, rate: float
) -> None:
    rates = Rates(rate, 100_000)
    assert take(database, rates) == 0
    assert take(database, rates) == pytest.approx(1 / rate)


def test_a_rest_is_not_saved_up(database: Database, still: Clock) -> None:
    take(database, TEN_POSTS)
    still.step(hours=10)
    assert [take(database, TEN_POSTS) == 0 for _ in range(3)] == [True, False, False]


def test_a_clock_stepped_forward_lets_no_more_than_one_burst_leave(database: Database, still: Clock) -> None:
    moments = taken(database, still, TEN_POSTS, 1, seconds=1)
    still.step(hours=6)
    moments += [1 + moment for moment in taken(database, still, TEN_POSTS, 1, seconds=1)]
    assert 18 <= len(moments) <= 22


def test_a_clock_stepped_back_neither_stops_the_rate_limit_nor_lifts_it(
    database: Database, still: Clock
) -> None:
    moments = taken(database, still, TEN_POSTS, 1, seconds=1)
    still.step(hours=-6)
    moments += [1 + moment for moment in taken(database, still, TEN_POSTS, 1, seconds=2)]
    assert 27 <= len(moments) <= 32
    assert most_within_a_second(moments) <= 12


def test_the_rate_limit_is_one_over_two_processes(database: Database, at_settings: Settings) -> None:
    rates = Rates(40, 100_000)
    moments = list(chain.from_iterable(in_processes(take_tokens, [(at_settings, rates, 1, 2.0)] * 2)))
    # The two start one after the other, so together they take a little longer than each.
    assert 40 <= len(moments) <= 40 * (max(moments) - min(moments)) + 6
    assert most_within_a_second(sorted(moments)) <= 40 + 6


def test_two_workers_together_post_no_faster_than_the_account_may(
    database: Database, database_url: str, simulator: SimulatorProcess
) -> None:
    queue_batch(database, phones(60))
    settings = live_settings(database_url, simulator.url, at_max_recipients=2, at_max_requests_per_second=15)
    assert sum(in_processes(send_all, [(settings,)] * 2)) == 60
    arrived = sorted(post["arrived"] for post in simulator.posts())
    assert len(arrived) == 30
    # A POST takes its time to arrive: 15 a second, give or take a few on both edges.
    assert most_within_a_second(arrived) <= 15 + 4


def test_a_worker_sends_bulk_at_the_rate_limit_of_messages(
    database: Database, database_url: str, simulator: SimulatorProcess
) -> None:
    queue_batch(database, phones(60))
    settings = live_settings(database_url, simulator.url, at_max_recipients=20, at_max_messages_per_second=40)
    client = ProviderClient.from_settings(settings)
    assert MessageSender(settings, database, client).run_until_idle() == 60
    client.close()
    arrived = [post["arrived"] for post in simulator.posts()]
    assert arrived[-1] - arrived[0] > 0.8
