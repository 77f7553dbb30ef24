from __future__ import annotations

import logging
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, text

from messaging.access import send_throttle
from messaging.access.send_throttle import ADDRESS, PARTS, Block, RateLimited, SendThrottle
from messaging.operations.sweep import sweep
from messaging.storage import tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from tests.support.delivery_processes import count_sends, in_processes
from utils.settings import Settings

BILLING, OTHER = "key:billing", "key:other"
HERE, THERE = f"{ADDRESS}192.0.2.1", f"{ADDRESS}192.0.2.2"
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)


def take(database: Database, per_minute: int, now: datetime, who: str = BILLING) -> Block:
    with database.write() as connection:
        return send_throttle.take(connection, send_throttle.lock(connection, who), per_minute, now)


def take_all(database: Database, per_minute: int, now: datetime) -> list[int]:
    taken: list[int] = []
    while permits := take(database, per_minute, now).permits:
        taken.append(permits)
    return taken


class Clock:
    """Stands until it is moved. The minutes are the database's; its own are none of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(send_throttle, "steady", lambda *_: NOON + timedelta(seconds=self.seconds))

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def passed(throttle: SendThrottle, calls: int, who: str = BILLING) -> int:
    number = 0
    for _ in range(calls):
        try:
            throttle.count(who)
        except RateLimited:
            continue
        number += 1
    return number


@pytest.mark.parametrize("per_minute", [1, 2, 15, 16, 17, 1000])
def test_the_blocks_of_a_minute_come_to_the_limit_and_no_further(database: Database, per_minute: int) -> None:
    blocks = take_all(database, per_minute, NOON)
    assert sum(blocks) == per_minute
    assert max(blocks) == blocks[0] == -(-per_minute // PARTS)
    assert take(database, per_minute, NOON + timedelta(seconds=59.9)) == (0, timedelta(seconds=0.1))
    assert sum(take_all(database, per_minute, NOON + timedelta(minutes=1))) == per_minute


def test_a_block_ends_with_its_minute(database: Database) -> None:
    assert take(database, 160, NOON + timedelta(seconds=42)) == (10, timedelta(seconds=18))


def test_a_clock_that_goes_back_a_little_begins_no_minute_again(database: Database) -> None:
    take_all(database, 160, NOON)
    assert take(database, 160, NOON - timedelta(seconds=2)) == (0, timedelta(seconds=62))
    # Set back by more: nobody waits until it has caught up.
    assert take(database, 160, NOON - timedelta(hours=1)).permits == 10


def test_a_limit_that_was_lowered_counts_at_once(database: Database) -> None:
    take_all(database, 100, NOON)
    assert take(database, 50, NOON).permits == 0


def test_beyond_the_limit_a_caller_waits_for_the_next_minute(database: Database, clock: Clock) -> None:
    throttle = SendThrottle(database, 20, clock)
    clock.seconds = 30.5
    assert passed(throttle, 25) == 20
    with pytest.raises(RateLimited, match=r"More than 20 sends .*: wait 30 seconds") as caught:
        throttle.count(BILLING)
    assert caught.value.retry_after == 30
    assert passed(throttle, 1, OTHER) == 1
    clock.seconds = 59.9
    assert passed(throttle, 1) == 0
    clock.seconds = 60.0
    assert passed(throttle, 25) == 20


def test_permits_that_were_not_used_end_with_the_minute(database: Database, clock: Clock) -> None:
    throttle = SendThrottle(database, 1600, clock)
    assert passed(throttle, 1) == 1
    clock.seconds = 60.0
    assert passed(SendThrottle(database, 1600, clock), 1600) == 1600
    assert passed(throttle, 1) == 0


def test_two_who_share_the_minute_never_pass_more_than_the_limit(database: Database, clock: Clock) -> None:
    one, other = SendThrottle(database, 1000, clock), SendThrottle(database, 1000, clock)
    assert passed(one, 1) == 1
    through = passed(other, 2000)
    # What the first one holds and does not use.
    assert through == 1000 - 63
    assert passed(one, 2000) == 62


def test_an_allowed_call_mostly_writes_nothing_and_a_refused_one_never(
    database: Database, clock: Clock
) -> None:
    throttle = SendThrottle(database, 10_000, clock)
    statements: list[str] = []
    commits: list[object] = []
    event.listen(database.engine, "commit", commits.append)
    assert passed(throttle, 10_000) == 10_000
    assert len(commits) < 150
    assert passed(throttle, 1) == 0
    event.listen(database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    assert passed(throttle, 1000) == 0
    assert statements == []


def test_threads_of_one_process_share_its_permits(database: Database, clock: Clock) -> None:
    throttle = SendThrottle(database, 100, clock)
    through: list[int] = []
    threads = [threading.Thread(target=lambda: through.append(passed(throttle, 50))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(through) == 100


def test_zero_is_no_limit_and_touches_no_database(database: Database) -> None:
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    assert passed(SendThrottle(database, 0), 1000) == 1000
    assert statements == []


def test_a_block_that_could_not_be_written_is_no_permit(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttle = SendThrottle(database, 100, clock)

    def fail_at_the_end(*arguments: object) -> Block:
        raise ConnectionError

    monkeypatch.setattr(send_throttle, "take", fail_at_the_end)
    with pytest.raises(ConnectionError):
        throttle.count(BILLING)
    monkeypatch.undo()
    monkeypatch.setattr(send_throttle, "steady", lambda *_: NOON)
    assert passed(throttle, 200) == 100


def test_the_log_tells_once_a_minute_who_asks_for_too_much(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    throttle = SendThrottle(database, 1, clock)
    with caplog.at_level(logging.WARNING):
        passed(throttle, 10)
    assert [record.caller for record in caplog.records] == [BILLING]  # type: ignore[attr-defined]


def test_a_key_and_its_address_are_asked_together_and_a_refusal_costs_neither(
    database: Database, clock: Clock
) -> None:
    throttle = SendThrottle(database, 3, clock)
    assert passed(throttle, 2, OTHER) == 2
    assert passed(throttle, 3, HERE) == 3
    with pytest.raises(RateLimited, match="More than 3 sends were asked for from this address"):
        throttle.count(OTHER, HERE)
    assert passed(throttle, 2, OTHER) == 1
    with pytest.raises(RateLimited, match="More than 3 sends were asked for in this minute"):
        throttle.count(OTHER, THERE)
    assert passed(throttle, 4, THERE) == 3


def test_threads_that_name_two_in_any_order_do_not_wait_for_each_other(
    database: Database, clock: Clock
) -> None:
    throttle = SendThrottle(database, 100, clock)
    through: list[bool] = []

    def ask(*callers: str) -> None:
        for _ in range(40):
            with suppress(RateLimited):
                throttle.count(*callers)
                through.append(True)

    pairs = [(BILLING, HERE), (HERE, BILLING)] * 2
    threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in pairs]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert len(through) == 100


def test_a_process_forgets_addresses_whose_minute_is_over(database: Database, clock: Clock) -> None:
    throttle = SendThrottle(database, 100, clock)
    for number in range(50):
        throttle.count(f"{ADDRESS}192.0.2.{number}")
    clock.seconds = 30.0
    throttle.count(BILLING)
    assert len(throttle._permits) == 51
    clock.seconds = 61.0
    throttle.count(OTHER)
    assert list(throttle._permits) == [OTHER]


def test_who_has_asked_for_nothing_for_an_hour_is_no_row_any_more(database: Database) -> None:
    take(database, 100, NOON, HERE)
    take(database, 100, NOON + timedelta(minutes=2), BILLING)
    take(database, 100, NOON + timedelta(days=365), THERE)
    with database.write() as connection:
        send_throttle.forget_old(connection, NOON + timedelta(minutes=61))
    with database.read() as connection:
        assert [row.who for row in connection.execute(tables.send_buckets.select())] == [BILLING]


def test_a_sweep_deletes_them(database: Database, settings: Settings) -> None:
    with database.write() as connection:
        now = steady(connection, wall_clock(connection))
    take(database, 100, now - timedelta(minutes=62), HERE)
    take(database, 100, now, THERE)
    sweep(database, settings)
    with database.read() as connection:
        assert [row.who for row in connection.execute(tables.send_buckets.select())] == [THERE]


def test_whoever_forgets_waits_for_nobody_who_counts(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer")
    take(database, 100, NOON, HERE)
    with database.write() as counting:
        send_throttle.lock(counting, HERE)
        with database.write() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            send_throttle.forget_old(connection, NOON + timedelta(days=1))
        assert send_throttle.take(counting, send_throttle.lock(counting, HERE), 100, NOON).permits > 0


def test_there_is_one_row_for_each_caller(database: Database) -> None:
    for minute in range(3):
        take(database, 100, NOON + timedelta(minutes=minute))
    take(database, 100, NOON, OTHER)
    with database.read() as connection:
        rows = connection.execute(tables.send_buckets.select().order_by(text("who"))).all()
    assert [(row.who, row.taken) for row in rows] == [(BILLING, 7), (OTHER, 7)]


@pytest.mark.processes
def test_processes_together_pass_the_limit_and_no_more(database: Database, settings: Settings) -> None:
    """Each asks until it is refused, all within one minute."""
    shares = in_processes(count_sends, [(settings, BILLING, 100_000, NOON)] * 2)
    assert sum(shares) == 100_000
    assert min(shares) > 0
