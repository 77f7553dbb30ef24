"""Two workers, many people, five quick texts to each: no text overtakes another, no two are under way at once."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.crash.scene import Scene, needs_linux, scene
from tests.support.stack import API_KEY

pytestmark = [pytest.mark.processes, needs_linux]

PEOPLE = 40
TEXTS = 5
LATENCY_SECONDS = 0.05


@pytest.fixture
def stage(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(store, tmp_path_factory.mktemp("order"), {"WORKER_CONCURRENCY": "6"}) as found:
        yield found


def phone_of(person: int) -> str:
    return f"+25472200{person:02d}31"


def send_singles(stage: Scene, person: int) -> None:
    for serial in range(TEXTS):
        stage.send(phone_of(person), f"single {serial} for {person}")


def send_batch(stage: Scene) -> None:
    rows = (f"{phone_of(person)},{serial},{person}" for serial in range(TEXTS) for person in range(PEOPLE))
    file = io.BytesIO("\n".join(["phone,serial,person", *rows]).encode())
    answer = stage.stack.session.post(
        f"{stage.stack.web_url}/v1/batches",
        data={"text": "batch {{serial}} for {{person}}"},
        files={"file": ("people.csv", file, "text/csv")},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=30,
    )
    assert answer.status_code == 202, answer.text


def received_by_person(stage: Scene) -> dict[str, list[dict[str, Any]]]:
    received = defaultdict(list)
    for item in stage.stack.ledger():
        received[item["to"]].append(item)
    return received


def test_no_text_overtakes_another_to_the_same_person_and_no_two_are_under_way_at_once(stage: Scene) -> None:
    # One POST in twenty is certainly not sent and comes again after its backoff.
    faults = {"latency_seconds": LATENCY_SECONDS, "status_429": {"value": 1, "probability": 0.05}}
    stage.stack.control("faults", faults)
    for name in ("worker", "worker-2"):
        stage.stack.start(name, stage.stack.commands()["worker"])

    send_batch(stage)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda person: send_singles(stage, person), range(PEOPLE)))

    stage.wait_for_rest(150)
    received = received_by_person(stage)
    assert set(received) == {phone_of(person) for person in range(PEOPLE)}
    for person in range(PEOPLE):
        items = received[phone_of(person)]
        for kind in ("single", "batch"):
            texts = [item["text"] for item in items if item["text"].startswith(kind)]
            assert texts == [f"{kind} {serial} for {person}" for serial in range(TEXTS)]
        moments = [datetime.fromisoformat(item["at"].replace("Z", "+00:00")) for item in items]
        # Each POST takes as long as the latency, so two that are closer were under way at once.
        gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]
        assert min(gaps) >= LATENCY_SECONDS
    posts = Counter(attempt.worker.split(":")[1] for attempt in stage.attempts_of("single 0 for 0"))
    assert len(posts) == 2
    stage.assert_audit_is_clean()
