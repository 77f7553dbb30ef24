from __future__ import annotations

import pytest

from messaging.sending import pauses
from messaging.sending.pauses import Pauses
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import Clock, every, in_write

pytest_plugins = ["tests.support.delivery_fixtures"]


def pause(database: Database, name: str, reason: str = "why") -> None:
    in_write(database, lambda connection, now: pauses.pause(connection, name, reason, "detail", now))


def current(database: Database) -> Pauses:
    with database.read() as connection:
        return pauses.current(connection)


def test_nothing_is_paused_at_first(database: Database) -> None:
    assert not current(database).account
    assert not current(database).holds("ACME")


def test_a_paused_account_holds_every_sender(database: Database) -> None:
    pause(database, pauses.ACCOUNT)
    assert current(database).account
    assert current(database).holds(None)
    assert current(database).holds("ACME")


def test_a_paused_sender_holds_only_itself_in_any_case_of_letters(database: Database) -> None:
    pause(database, pauses.sender_name("Acme"))
    assert not current(database).account
    assert current(database).holds("ACME")
    assert current(database).holds("acme")
    assert not current(database).holds("OTHER")
    assert not current(database).holds(None)


def test_the_first_reason_is_kept_for_it_began_the_pause(database: Database) -> None:
    pause(database, pauses.ACCOUNT, "insufficient_balance")
    pause(database, pauses.ACCOUNT, "credentials_refused")
    (row,) = every(database, tables.pauses)
    assert (row.reason, row.detail) == ("insufficient_balance", "detail")


@pytest.mark.parametrize(
    ("name", "lifted", "left"), [(pauses.ACCOUNT, 1, 1), (None, 2, 0), ("sender:X", 0, 2)]
)
def test_one_pause_is_lifted_or_all(database: Database, name: str | None, lifted: int, left: int) -> None:
    pause(database, pauses.ACCOUNT)
    pause(database, pauses.sender_name("ACME"))
    woken: list[None] = []
    database.wake = lambda: woken.append(None)
    with database.write() as connection:
        assert pauses.resume(connection, name) == lifted
    assert len(every(database, tables.pauses)) == left
    assert len(woken) == min(lifted, 1)


def test_nobody_probes_while_nothing_is_paused(database: Database) -> None:
    assert not pauses.take_probe(database)


def test_a_paused_sender_is_not_probed_for_the_balance_says_nothing_of_it(
    database: Database, clock: Clock
) -> None:
    pause(database, pauses.sender_name("ACME"))
    clock.step(hours=1)
    assert not pauses.take_probe(database)


def test_one_probe_a_minute_whoever_asks(database: Database, clock: Clock) -> None:
    pause(database, pauses.ACCOUNT)
    assert not pauses.take_probe(database)
    clock.step(seconds=61)
    assert [pauses.take_probe(database) for _ in range(3)] == [True, False, False]
    clock.step(seconds=61)
    assert pauses.take_probe(database)


def test_a_clock_that_was_stepped_back_does_not_stop_the_probes(database: Database, clock: Clock) -> None:
    pause(database, pauses.ACCOUNT)
    clock.step(hours=-5)
    assert pauses.take_probe(database)
    assert not pauses.take_probe(database)
