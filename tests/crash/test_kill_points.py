"""SIGKILL at each point of a text's way, on both stores; then a normal worker, and the phones are asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import requests

from tests.crash.scene import Scene, needs_linux, reach, scene
from tests.support.stack import eventually

pytestmark = [pytest.mark.processes, needs_linux]

# A number with a text in doubt adopts no other report, so each test has its own.
SERIALS = itertools.count(10)
# What has happened to the text when the worker dies, and what must be said of it afterwards.
WORKER_POINTS = {
    "before_claim": ("delivered", True),
    "in_the_claim_before_its_commit": ("delivered", True),
    "in_the_mark_before_its_commit": ("delivered", True),
    "after_claim": ("delivered", True),
    "before_the_bytes_leave": ("unknown", False),
    "after_answer": ("delivered by inference", True),
    "in_the_record_before_its_commit": ("delivered by inference", True),
    "after_record": ("delivered", True),
}
FAULTS = {
    "hang_before_accept": ("unknown", False),
    "hang_after_accept": ("delivered by inference", True),
}
STEPS = {
    "delivered": [
        ("queued", "api"),
        ("sending", "worker"),
        ("accepted", "provider"),
        ("delivered", "report"),
    ],
    "unknown": [("queued", "api"), ("sending", "worker"), ("unknown", "sweep")],
    "delivered by inference": [
        ("queued", "api"),
        ("sending", "worker"),
        ("unknown", "sweep"),
        ("delivered", "inferred"),
    ],
}


# On one store: tests/proof ends a process at every step of every scenario, on both.
@pytest.fixture(scope="module")
def stage(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(store, tmp_path_factory.mktemp("kill-points")) as found:
        yield found


@pytest.fixture
def text(stage: Scene, request: pytest.FixtureRequest) -> Iterator[str]:
    yield f"Killed in {request.node.name}"
    stage.end_workers()
    stage.stack.control("reset", {})


@pytest.fixture
def phones() -> list[str]:
    return [f"+2547112220{next(SERIALS):02d}" for _ in range(2)]


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_killed_between_its_writes_leaves_the_truth(
    stage: Scene, text: str, phones: list[str], point: str
) -> None:
    marker = stage.freeze_worker(point)
    stage.send(phones, text)
    reach(marker)

    stage.stack.kill("frozen")

    recover_and_judge(stage, text, phones, *WORKER_POINTS[point])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_killed_in_mid_post_leaves_the_truth(
    stage: Scene, text: str, phones: list[str], fault: str
) -> None:
    stage.stack.control("faults", {fault: {"count": 1}})
    stage.stack.start("worker")
    stage.send(phones, text)
    eventually(lambda: has_come_to_the_provider(stage, text), "the POST has come to the simulator")

    stage.stack.kill("worker")

    recover_and_judge(stage, text, phones, *FAULTS[fault])


def has_come_to_the_provider(stage: Scene, text: str) -> bool:
    answer = requests.get(f"{stage.stack.simulator_url}/_simulator/requests", timeout=10)
    return any(item["text"] == text for item in answer.json()["items"])


def recover_and_judge(stage: Scene, text: str, phones: list[str], outcome: str, is_received: bool) -> None:
    expected = [STEPS[outcome]] * len(phones)
    stage.expire_leases()
    stage.stack.start("worker")
    eventually(lambda: stage.histories_of(text) == expected, f"each history is {STEPS[outcome]}")
    stage.wait_for_rest()
    assert stage.received(text) == (phones if is_received else [])
    assert stage.histories_of(text) == expected
    stage.assert_audit_is_clean()


REPORT_POINTS = (
    "before_reports_are_applied",
    "in_a_group_of_reports_before_its_commit",
    "after_a_group_of_reports",
)


@pytest.mark.parametrize("point", REPORT_POINTS)
def test_a_worker_killed_between_the_answer_to_reports_and_their_effect_loses_none(
    stage: Scene, text: str, phones: list[str], point: str
) -> None:
    stage.stack.control("faults", {"reports": {"off": True}})
    stage.stack.start("worker")
    ids = stage.send(phones, text)
    eventually(lambda: stage.statuses_of(text) == ["accepted"] * 2, "both are accepted")
    stage.end_workers()
    for message_id in ids:
        provider_id = stage.stack.message(message_id)["provider_message_id"]
        answer = stage.stack.callback("/sms/delivery-reports", {"id": provider_id, "status": "Success"})
        assert answer.status_code == 200
    reach(stage.freeze_worker(point))

    stage.stack.kill("frozen")

    is_applied = point == "after_a_group_of_reports"
    assert stage.statuses_of(text) == ["delivered" if is_applied else "accepted"] * 2
    recover_and_judge(stage, text, phones, "delivered", is_received=True)


TRIGGER_POINTS = {
    # Where the web process dies: what the message says, whether the phone has the text, and what the
    # same call with the same key is then answered.
    "after_claim": ("cancelled", False, 200),
    "before_the_bytes_leave": ("unknown", False, 504),
    "after_answer": ("delivered", True, 504),
    "in_the_record_before_its_commit": ("delivered", True, 504),
    "after_record": ("delivered", True, 200),
}


@pytest.mark.parametrize("point", TRIGGER_POINTS)
def test_a_trigger_killed_on_its_way_is_nobody_elses_to_send(
    stage: Scene, text: str, phones: list[str], point: str
) -> None:
    status, is_received, code_of_retry = TRIGGER_POINTS[point]
    stage.stack.start("worker")
    call = {"phone": phones[0], "message": text, "idempotency_key": f"{point} {text}"}
    kill_during(stage, point, lambda: stage.stack.get("/sms/invoke-bulk-sms", **call))
    stage.expire_leases()
    stage.restart_worker()

    eventually(lambda: stage.statuses_of(text) == [status], f"the message is {status}")
    stage.wait_for_rest()
    assert stage.received(text) == phones[:1] * is_received

    again = stage.stack.get("/sms/invoke-bulk-sms", **call)

    assert again.status_code == code_of_retry, again.text
    stage.wait_for_rest()
    assert stage.received(text) == phones[:1] * (is_received or code_of_retry == 200)
    stage.assert_audit_is_clean()


@pytest.mark.parametrize(
    ("point", "is_replay"),
    [("in_the_acceptance_before_its_commit", None), ("after_acceptance", "true")],
)
def test_a_send_killed_while_it_is_accepted_is_one_message_however_often_it_is_repeated(
    stage: Scene, text: str, phones: list[str], point: str, is_replay: str | None
) -> None:
    stage.stack.start("worker")
    body, key = {"to": phones, "text": text}, {"Idempotency-Key": f"{point} {text}"}
    kill_during(stage, point, lambda: stage.stack.post("/v1/messages", body, **key))

    again = stage.stack.post("/v1/messages", body, **key)

    assert (again.status_code, again.headers.get("Idempotent-Replay")) == (202, is_replay)
    eventually(lambda: stage.statuses_of(text) == ["delivered"] * 2, "both are delivered")
    stage.wait_for_rest()
    assert stage.received(text) == phones
    stage.assert_audit_is_clean()


def kill_during(stage: Scene, point: str, call: Callable[[], requests.Response]) -> None:
    """A web process that stops at `point` is called and killed there; then a normal one takes its place."""
    marker = stage.freeze_web(point)
    with ThreadPoolExecutor(1) as pool:
        answer: Future[requests.Response] = pool.submit(call)
        reach(marker)
        stage.stack.kill("web")
        with pytest.raises(requests.ConnectionError):
            answer.result()
    stage.stack.start("web")
    stage.wait_for_web()
