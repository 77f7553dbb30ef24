"""The provider is away, in two ways: it takes requests and never answers, or nobody listens there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.scene import Scene, linger, scene
from tests.support.stack import eventually

# Five minutes in twelve seconds: what matters is that it lasts far longer than the deadline of a POST.
OUTAGE_SECONDS = 12
# At the start each of the four lanes may have a POST under way; then one text a step (5, 10, 20 seconds …).
A_HANDFUL = 8

pytestmark = pytest.mark.processes


@pytest.fixture
def stage(store: str, tmp_path: Path) -> Iterator[Scene]:
    with scene(store, tmp_path, {"AT_TIMEOUT_SECONDS": "1"}) as found:
        found.stack.start("worker")
        found.send(number(0), "Before the outage")
        eventually(lambda: found.statuses_of("Before the outage") == ["delivered"], "all is well at first")
        yield found


def number(serial: int) -> str:
    return f"+25471{serial:05d}10"


def send_singles(stage: Scene, count: int) -> dict[str, str]:
    """Number by text; each text goes in a POST of its own."""
    texts = {f"Single {serial}": number(serial) for serial in range(1, count + 1)}
    for text, to in texts.items():
        stage.send(to, text)
    return texts


def test_a_silent_provider_makes_a_handful_unknown_and_the_queue_waits(stage: Scene) -> None:
    batch = [number(serial) for serial in range(1000, 1300)]
    stage.stack.signal("simulator", signal.SIGSTOP)
    singles = send_singles(stage, 40)
    linger(2)
    stage.send(batch, "A batch")
    linger(OUTAGE_SECONDS)
    during = stage.count_by_status()

    stage.stack.signal("simulator", signal.SIGCONT)

    assert during["queued"] >= 341 - 1 - A_HANDFUL
    stage.wait_for_rest(90)
    stage.assert_audit_is_clean()
    assert len(stage.once_unknown()) <= A_HANDFUL
    after = stage.count_by_status()
    assert after["delivered"] + after["unknown"] == 341
    assert after["unknown"] <= A_HANDFUL
    for text, to in singles.items():
        assert stage.received(text) == [to]
    assert set(batch) - set(stage.received("A batch")) <= stage.once_unknown()
    assert len(stage.received("A batch")) == len(set(stage.received("A batch")))


def test_a_provider_that_cannot_be_reached_makes_nothing_unknown(stage: Scene) -> None:
    stage.stack.kill("simulator")
    singles = send_singles(stage, 30)
    answer = stage.stack.get("/sms/invoke-bulk-sms", phone=number(99), message="Now?")
    linger(OUTAGE_SECONDS / 2)
    during = stage.count_by_status()

    stage.stack.start("simulator")

    assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable")
    assert during["queued"] + during["sending"] == 30
    eventually(lambda: stage.count_by_status()["delivered"] == 31, "all are delivered", 90)
    stage.wait_for_rest()
    assert stage.once_unknown() == set()
    assert stage.statuses_of("Now?") == ["failed"]
    assert stage.received("Now?") == []
    for text, to in singles.items():
        assert stage.received(text) == [to]
    stage.assert_audit_is_clean()
