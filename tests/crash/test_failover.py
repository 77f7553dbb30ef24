"""A replica without the last commits takes over: what has left since is sent to nobody again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from messaging.storage import tables
from messaging.storage.rollback import PLACE_CHANGED
from tests.crash.scene import Scene, scene
from tests.support.databases import opened
from tests.support.delivery import every
from tests.support.postgresql import PostgresqlServer, private_postgresql
from tests.support.stack import eventually

pytestmark = [pytest.mark.processes, pytest.mark.services]

TEXT = "Sixty of these"
PEOPLE = [f"+2547110{number:05d}" for number in range(10_000, 10_060)]
SLOWLY = {"AT_MAX_RECIPIENTS": "2", "AT_MAX_REQUESTS_PER_SECOND": "6"}


@pytest.fixture
def primary() -> Iterator[PostgresqlServer]:
    with private_postgresql() as server:
        yield server


@pytest.fixture
def replica(primary: PostgresqlServer) -> Iterator[PostgresqlServer]:
    with private_postgresql(primary) as server:
        yield server


@pytest.fixture
def stage(primary: PostgresqlServer, tmp_path: Path) -> Iterator[Scene]:
    with scene("postgresql", tmp_path, SLOWLY, primary.url) as found:
        yield found


def start_worker(stage: Scene, name: str) -> None:
    """On a machine of its own: its witness is in another folder."""
    stage.stack.start(name, ["worker"], {"WITNESS_DIR": str(stage.stack.folder / f"witness-of-{name}")})


def registered(stage: Scene) -> int:
    with stage.database.read() as connection:
        return connection.execute(select(func.count()).select_from(tables.witness_folders)).scalar_one()


def test_the_idle_worker_that_starts_first_sends_nothing_that_the_other_one_has_sent(
    stage: Scene, primary: PostgresqlServer, replica: PostgresqlServer
) -> None:
    start_worker(stage, "idle")
    # The web process has one, too.
    eventually(lambda: registered(stage) == 2, "both have told of their witnesses")
    stage.stack.stop("idle")
    start_worker(stage, "busy")
    stage.send(PEOPLE, TEXT)
    eventually(lambda: len(stage.received(TEXT)) >= 20, "a third has left")
    # Before: what leaves while it stops is nothing that the replica needs to know.
    known = len(stage.received(TEXT))
    replica.stop("fast")
    eventually(lambda: len(stage.received(TEXT)) == len(PEOPLE), "all have left")
    stage.stack.kill("busy")
    stage.stack.kill("web")
    primary.stop("immediate")

    replica.start()
    replica.promote()
    stage.stack.environment["DATABASE_URL"] = replica.url
    with opened(replica.url) as database:
        after = replace(stage, database=database)
        # A replica that stops in the midst of a POST has it open, and its lease outlasts the wait for rest.
        after.expire_leases()
        start_worker(after, "idle")
        eventually(lambda: every(database, tables.recoveries), "the idle one finds it out")
        after.stack.start("web")
        after.wait_for_web()
        answer = after.stack.post("/v1/messages", {"to": PEOPLE[0], "text": "Not now"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "recovering")
        assert Counter(after.received(TEXT)) == Counter(PEOPLE)
        start_worker(after, "busy")
        eventually(lambda: every(database, tables.recoveries)[-1].closed_at, "the recovery is over")
        after.wait_for_rest()
        assert Counter(after.received(TEXT)) == Counter(PEOPLE)
        (found,) = every(database, tables.recoveries)
        assert (found.reason, found.held) == (PLACE_CHANGED, 0)
        assert 0 < found.unknown <= len(PEOPLE) - known + 2
        counts = after.count_by_status()
        assert counts["queued"] == counts["sending"] == counts["held"] == 0
        after.assert_audit_is_clean()
        after.send("+254711020000", "Later")
        eventually(lambda: after.received("Later"), "sending goes on")
