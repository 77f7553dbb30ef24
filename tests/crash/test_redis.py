"""Redis as the task engine: it only wakes the worker, so a text goes out at once and losing Redis costs seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.crash.scene import Scene, scene
from tests.support.stack import eventually

REDIS_URL = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/9")
TEXTS = 20
# "A second or two" on a machine of its own; half a minute is still far from a lease and from the minute's sweep.
SOON = 10
LATER = 30

# One after the other: they empty the database that all of them use.
pytestmark = [pytest.mark.processes, pytest.mark.services, pytest.mark.xdist_group("redis")]


@pytest.fixture
def queue() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(REDIS_URL, socket_connect_timeout=2) as client:
        try:
            client.flushdb()
        except redis.ConnectionError as error:
            if os.environ.get("REQUIRE_SERVICES") == "1":
                raise
            pytest.skip(f"no Redis at TEST_REDIS_URL: {error}")
        yield client


@pytest.fixture
def stage(tmp_path: Path, queue: redis.Redis) -> Iterator[Scene]:
    with scene("sqlite", tmp_path, {"QUEUE_URL": REDIS_URL}) as found:
        found.stack.start("worker")
        eventually(lambda: found.stack.get("/healthz?worker=1").ok, "web and worker are there")
        yield found


def test_a_text_is_sent_soon_and_losing_every_task_costs_only_seconds(
    stage: Scene, queue: redis.Redis
) -> None:
    stage.send("+254711555010", "With Redis")
    eventually(lambda: stage.received("With Redis"), "the text is sent", SOON)

    for serial in range(TEXTS):
        stage.send(f"+2547115551{serial:02d}", f"Lost task {serial}")
        queue.flushdb()

    eventually(lambda: stage.count_by_status()["delivered"] == TEXTS + 1, "all are delivered", LATER)
    assert len(stage.stack.ledger()) == TEXTS + 1
    stage.assert_audit_is_clean()


def test_a_worker_that_finds_an_empty_redis_sends_what_waits(stage: Scene, queue: redis.Redis) -> None:
    stage.stack.kill("worker")
    stage.send("+254711555011", "Without a task")
    queue.flushdb()

    stage.stack.start("worker")

    eventually(lambda: stage.received("Without a task") == ["+254711555011"], "the text is sent", LATER)
