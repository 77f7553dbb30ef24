"""Brakes with real processes: two workers, one of them killed, and a limit that both share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from messaging.access.actor import Actor, acting
from messaging.batches import control
from messaging.storage import tables
from tests.crash.scene import Scene, linger, needs_linux, scene
from tests.support import delivery
from tests.support.databases import KINDS
from tests.support.stack import eventually

pytestmark = [pytest.mark.processes, needs_linux]

# The simulator bills KES 0.80: a hundred texts.
BRAKES = {
    "AT_MAX_RECIPIENTS": "4",
    "APPROVAL_ABOVE": "25",
    "DAILY_LIMIT": "KES 80",
    "WORKER_CONCURRENCY": "2",
}
MOST_TEXTS = 100


@pytest.fixture(scope="module", params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(request.param, tmp_path_factory.mktemp("brakes"), BRAKES) as found:
        yield found


@pytest.fixture(autouse=True)
def _workers_end(stage: Scene) -> Iterator[None]:
    yield
    stage.end_workers()


def start_two(stage: Scene) -> None:
    for name in ("worker", "worker-2"):
        stage.stack.start(name, stage.stack.commands()["worker"])


def batch_of(stage: Scene, message_id: int) -> int:
    return int(delivery.message(stage.database, message_id).batch_id)


def test_an_unapproved_batch_never_posts_also_with_a_worker_killed(stage: Scene) -> None:
    waiting, going = "Needs approval", "Goes at once"
    phones = delivery.phones(26)
    start_two(stage)
    batch_id = batch_of(stage, stage.send(phones, waiting)[0])
    stage.send(delivery.phones(5), going)
    eventually(lambda: set(stage.statuses_of(going)) == {"delivered"}, "what needs no approval leaves")
    stage.stack.kill("worker")
    stage.stack.start("worker-3", stage.stack.commands()["worker"])
    author = stage.stack.post(f"/v1/batches/{batch_id}/resume", {})
    assert (author.status_code, author.json()["error"]["code"]) == (403, "needs_approval")
    linger(2)
    assert set(stage.statuses_of(waiting)) == {"queued"}
    assert stage.received(waiting) == []
    assert sum(one.message_count for one in stage.attempts_of(waiting)) == 5

    acting.set(Actor("operator:bob", may_approve=True))
    control.resume(stage.database, batch_id)

    eventually(lambda: set(stage.statuses_of(waiting)) == {"delivered"}, "it leaves once it is approved")
    assert stage.received(waiting) == sorted(phones)
    stage.assert_audit_is_clean()


def test_two_workers_stay_below_the_limit_of_the_day_together(stage: Scene) -> None:
    start_two(stage)
    # From here on a price is known.
    stage.send(delivery.phone(99), "First of all")
    eventually(lambda: stage.statuses_of("First of all") == ["delivered"], "the price is known")
    before = delivery.count(stage.database, tables.messages, tables.messages.c.sent_at.is_not(None))
    texts = [f"Campaign {number}" for number in range(6)]
    batches = [batch_of(stage, stage.send(delivery.phones(20), text)[0]) for text in texts]

    def is_at_rest() -> bool:
        with stage.database.read() as connection:
            found = connection.execute(tables.batches.select().where(tables.batches.c.id.in_(batches)))
            return {(row.status, row.reason) for row in found} <= {
                ("paused", "daily_limit"),
                ("finished", None),
            }

    eventually(is_at_rest, "each batch is sent or paused")
    stage.stack.kill("worker")
    linger(1)
    received = sum(len(stage.received(text)) for text in texts)
    assert received == MOST_TEXTS - before
    stage.assert_audit_is_clean()
