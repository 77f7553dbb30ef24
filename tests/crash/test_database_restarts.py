"""PostgreSQL goes away and comes back under a continuous load, once in order and once by a crash."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from messaging.sending import triggers
from tests.crash.books import read_books
from tests.crash.causes import explain_unknowns
from tests.crash.judge import judge
from tests.crash.load import ACCEPTED, Load
from tests.crash.scene import Scene, linger, scene
from tests.support.postgresql import PostgresqlServer, private_postgresql
from tests.support.stack import eventually

LOAD_SECONDS = 5
AWAY_SECONDS = 2
DEADLINE_SECONDS = 4

pytestmark = [pytest.mark.processes, pytest.mark.services]


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    with private_postgresql() as found:
        yield found


def test_postgresql_restarted_in_mid_run_loses_nothing_and_sends_nothing_twice(
    server: PostgresqlServer, tmp_path: Path
) -> None:
    with scene("postgresql", tmp_path, {"AT_TIMEOUT_SECONDS": str(DEADLINE_SECONDS)}, server.url) as stage:
        stage.stack.start("worker")
        load = Load(stage.stack, seed=1, pause_seconds=0.1)
        load.start()
        for mode in ("fast", "immediate"):
            linger(LOAD_SECONDS)
            server.stop(mode)
            linger(AWAY_SECONDS)
            server.start()
        linger(LOAD_SECONDS)
        load.stop_asking()

        come_to_rest(stage, load)

        books = read_books(stage.database, stage.stack)
        assert judge(books, load.promises, load.shared_numbers) == []
        causes, unexplained = explain_unknowns(books, [], DEADLINE_SECONDS)
        assert unexplained == [], causes
        stage.assert_audit_is_clean()
        assert sum(promise.outcome == ACCEPTED for promise in load.promises) > 50


def come_to_rest(stage: Scene, load: Load) -> None:
    """What was claimed when the server went waits for its lease, which ends here as soon as nobody works.

    A trigger that is tried again meanwhile may be in its POST: that one keeps its lease.
    """
    linger(triggers.DEADLINE_SECONDS + 1)
    stage.stack.stop("worker")
    stage.expire_leases(timedelta(seconds=triggers.DEADLINE_SECONDS))
    stage.stack.start("worker")
    eventually(lambda: load.is_over, "every call has its answer", 90)
    stage.wait_for_rest(90)
