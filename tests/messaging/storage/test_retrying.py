from __future__ import annotations

import sqlite3
from contextlib import closing

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from messaging.storage import retrying
from messaging.storage.retrying import is_passing, with_retries


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY_SECONDS", 0.01)


def test_a_write_waits_for_a_database_that_restarts() -> None:
    tries: list[None] = []

    def write() -> str:
        tries.append(None)
        if len(tries) < 4:
            raise OperationalError("UPDATE", {}, Exception("the server is starting up"))
        return "written"

    assert with_retries(write) == "written"
    assert len(tries) == 4


def test_a_write_does_not_wait_for_ever() -> None:
    def write() -> None:
        raise OperationalError("UPDATE", {}, Exception("disk full"))

    with pytest.raises(OperationalError):
        with_retries(write, 0.05)


def test_what_is_wrong_with_the_write_itself_is_raised_at_once() -> None:
    tries: list[None] = []

    def write() -> None:
        tries.append(None)
        raise IntegrityError("INSERT", {}, Exception("not unique"))

    with pytest.raises(IntegrityError):
        with_retries(write)
    assert len(tries) == 1


class TooLong(psycopg.errors.ProgramLimitExceeded):
    """What PostgreSQL says of a key that does not fit its index: the driver calls it operational."""


def no_such_table() -> sqlite3.Error:
    with pytest.raises(sqlite3.OperationalError) as refused, closing(sqlite3.connect(":memory:")) as found:
        found.execute("SELECT 1 FROM nothing")
    return refused.value


@pytest.mark.parametrize("told", [TooLong(), no_such_table()])
def test_what_no_waiting_mends_is_raised_at_once_though_the_driver_calls_it_operational(
    told: Exception,
) -> None:
    tries: list[None] = []

    def write() -> None:
        tries.append(None)
        raise OperationalError("UPDATE", {}, told)

    with pytest.raises(OperationalError):
        with_retries(write)
    assert len(tries) == 1


@pytest.mark.parametrize("told", [psycopg.errors.DiskFull(), psycopg.errors.CannotConnectNow()])
def test_a_full_disk_and_a_start_are_waited_for(told: Exception) -> None:
    assert is_passing(OperationalError("UPDATE", {}, told))
