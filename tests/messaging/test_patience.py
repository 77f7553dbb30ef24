from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from messaging import patience
from messaging.patience import with_patience


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RETRY_SECONDS", 0.01)


def test_a_write_waits_for_a_database_that_restarts() -> None:
    tries: list[None] = []

    def write() -> str:
        tries.append(None)
        if len(tries) < 4:
            raise OperationalError("UPDATE", {}, Exception("the server is starting up"))
        return "written"

    assert with_patience(write) == "written"
    assert len(tries) == 4


def test_a_write_does_not_wait_for_ever() -> None:
    def write() -> None:
        raise OperationalError("UPDATE", {}, Exception("disk full"))

    with pytest.raises(OperationalError):
        with_patience(write, 0.05)


def test_what_is_wrong_with_the_write_itself_is_raised_at_once() -> None:
    tries: list[None] = []

    def write() -> None:
        tries.append(None)
        raise IntegrityError("INSERT", {}, Exception("not unique"))

    with pytest.raises(IntegrityError):
        with_patience(write)
    assert len(tries) == 1
