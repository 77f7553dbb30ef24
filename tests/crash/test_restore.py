"""A backup is put back while everything is stopped: nobody gets a text twice, and what had not left goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.scene import Scene, scene
from tests.support.stack import eventually

pytestmark = pytest.mark.processes

TEXT = "Sixty of these"
PEOPLE = [f"+2547110{number:05d}" for number in range(10_000, 10_060)]
# Slow enough that a copy can be made in the middle.
SLOWLY = {"AT_MAX_RECIPIENTS": "4", "AT_MAX_REQUESTS_PER_SECOND": "5"}


def put_back(copy: Path, database: Path) -> None:
    for ending in ("-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)
    shutil.copyfile(copy, database)


def stop(stage: Scene) -> None:
    for name in ("worker", "web"):
        assert stage.stack.stop(name) == 0
    stage.database.close()


def start(stage: Scene) -> None:
    for name in ("web", "worker"):
        stage.stack.start(name)
    stage.wait_for_web()


def test_a_copy_of_the_middle_of_a_batch_that_is_put_back_sends_nothing_twice(tmp_path: Path) -> None:
    with scene("sqlite", tmp_path, SLOWLY) as stage:
        stage.stack.start("worker")
        stage.send(PEOPLE, TEXT)
        eventually(lambda: len(stage.received(TEXT)) >= 20, "a third has left")
        copy = tmp_path / "middle.backup"
        stage.stack.flask("sms", "backup", str(copy)).check_returncode()
        known = len(stage.received(TEXT))
        stage.wait_for_rest()
        assert sorted(stage.received(TEXT)) == sorted(PEOPLE)
        stop(stage)
        put_back(copy, tmp_path / "sms.db")
        more = stage_later(stage)
        stage.wait_for_rest()
        assert Counter(stage.received(TEXT)) == Counter(PEOPLE)
        assert stage.received("Afterwards") == [more]
        found = stage.count_by_status()
        assert found["queued"] == found["sending"] == 0
        assert found["unknown"] >= 60 - known - 4
        stage.assert_audit_is_clean()
        assert '"the database is recovered"' in stage.stack.log("worker") + stage.stack.log("web")


def stage_later(stage: Scene) -> str:
    """Started again; a text that is asked for when sending goes on. Until then it is refused."""
    start(stage)
    person = "+254711020000"

    def is_taken() -> bool:
        answer = stage.stack.post("/v1/messages", {"to": person, "text": "Afterwards"})
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "recovering"
        return answer.status_code == 202

    eventually(is_taken, "sending goes on")
    return person
