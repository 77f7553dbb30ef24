"""Several workers at one queue, and workers that are told to stop or stand still in the midst of their work."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.crash.scene import Scene, linger, needs_linux, reach, scene
from tests.support.databases import KINDS
from tests.support.stack import eventually

pytestmark = [pytest.mark.processes, needs_linux]

SERIALS = itertools.count(10)
OTHER_PHONE = "+254711333910"


@pytest.fixture(scope="module", params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(request.param, tmp_path_factory.mktemp("workers"), {"AT_MAX_RECIPIENTS": "20"}) as found:
        yield found


@pytest.fixture
def text(stage: Scene, request: pytest.FixtureRequest) -> Iterator[str]:
    yield f"Told in {request.node.name}"
    stage.end_workers()
    # The worker of the next test would post it in place of its own.
    assert stage.count_by_status()["queued"] == 0
    stage.stack.control("reset", {})


@pytest.fixture
def phone() -> str:
    return f"+2547113330{next(SERIALS):02d}"


def test_two_workers_send_each_of_two_thousand_texts_once(stage: Scene, text: str) -> None:
    phones = [f"+25472000{serial:02d}{ending}" for serial in range(40) for ending in range(10, 60)]
    stage.stack.control("faults", {"latency_seconds": 0.05})
    for name in ("worker", "worker-2"):
        stage.stack.start(name, stage.stack.commands()["worker"])

    for start in range(0, len(phones), 500):
        stage.send(phones[start : start + 500], text)

    stage.wait_for_rest(120)
    assert stage.received(text) == sorted(phones)
    posts = Counter(int(attempt.worker.split(":")[1]) for attempt in stage.attempts_of(text))
    workers = {stage.stack.processes[name].pid for name in ("worker", "worker-2")}
    assert posts.keys() == workers
    # Full ones, but for the last of each call and of each worker.
    assert 100 <= posts.total() <= 110
    stage.assert_audit_is_clean()


def test_a_worker_told_to_stop_in_mid_post_finishes_and_records_it(
    stage: Scene, text: str, phone: str
) -> None:
    stage.stack.control("faults", {"latency_seconds": {"value": 2, "count": 1}})
    stage.stack.start("worker")
    stage.send(phone, text)
    eventually(lambda: [one.state for one in stage.attempts_of(text)] == ["posting"], "it posts")

    assert stage.stack.stop("worker") == 0

    (attempt,) = stage.attempts_of(text)
    assert (attempt.state, attempt.outcome) == ("recorded", "answered")
    stage.send(phone, f"{text}, later")
    assert stage.statuses_of(f"{text}, later") == ["queued"]
    waiting = {"kind": "report", "outcome": "received"}
    eventually(lambda: stage.stack.get("/v1/callbacks", **waiting).json()["items"], "the report is stored")
    assert stage.statuses_of(text) == ["accepted"]
    stage.stack.start("worker")
    eventually(lambda: stage.statuses_of(text) == ["delivered"], "the next worker applies it")
    assert stage.received(text) == [phone]
    eventually(lambda: stage.statuses_of(f"{text}, later") == ["delivered"], "and sends what waited")


@pytest.mark.parametrize("is_swept_first", [True, False], ids=["swept first", "continued first"])
def test_a_worker_that_stood_still_past_its_lease_does_not_post(
    stage: Scene, text: str, phone: str, is_swept_first: bool
) -> None:
    marker = stage.freeze_worker("after_claim")
    stage.send(phone, text)
    sleeper = reach(marker)
    stage.expire_leases()

    if not is_swept_first:
        stage.proceed(sleeper)
        linger(1)
    stage.stack.start("worker")
    eventually(lambda: stage.statuses_of(text) == ["delivered"], "another worker sends it")
    if is_swept_first:
        stage.proceed(sleeper)
        linger(1)

    asleep, *_ = stage.attempts_of(text)
    assert (asleep.state, asleep.posting_at) == ("released", None)
    assert stage.received(text) == [phone]
    stage.assert_audit_is_clean()


@pytest.mark.parametrize("on_unknown", ["hold", "resend"])
def test_a_worker_that_stood_still_while_posting_is_the_only_one_that_ever_sends_it(
    stage: Scene, text: str, phone: str, on_unknown: str
) -> None:
    marker = stage.freeze_worker("before_the_bytes_leave")
    stage.send(phone, text, on_unknown=on_unknown)
    sleeper = reach(marker)
    stage.expire_leases()
    stage.stack.start("worker")
    eventually(lambda: stage.statuses_of(text) == ["unknown"], "the sweep finds it")
    linger(1)
    assert stage.received(text) == []

    stage.proceed(sleeper)

    eventually(lambda: stage.statuses_of(text) == ["delivered"], "its own answer settles it")
    assert stage.received(text) == [phone]
    assert len(stage.attempts_of(text)) == 1
    stage.assert_audit_is_clean()


def test_workers_that_stand_still_in_mid_write_do_not_hold_up_the_others_for_long(
    stage: Scene, text: str, phone: str
) -> None:
    """A frozen machine, or one that lost its network, keeps its locks until PostgreSQL ends the session.

    On SQLite all processes share one machine, and its one writer lock has no such end.
    """
    if stage.database.is_sqlite:
        pytest.skip("PostgreSQL's sessions only")
    answered, claimed = f"{text}, answered", f"{text}, claimed"
    marker = stage.freeze_worker("in_the_record_before_its_commit", "frozen-1")
    stage.send(OTHER_PHONE, answered)
    with_an_answer = reach(marker)
    marker = stage.freeze_worker("in_the_claim_before_its_commit", "frozen-2")
    stage.send(phone, claimed)
    with_a_claim = reach(marker)

    stage.stack.start("worker")

    eventually(lambda: stage.statuses_of(claimed) == ["delivered"], "another worker sends it", 60)
    for sleeper in (with_a_claim, with_an_answer):
        stage.proceed(sleeper)
    eventually(lambda: stage.statuses_of(answered) == ["delivered"], "the answer is recorded after all")
    assert [status for status, _ in stage.histories_of(answered)[0]] == [
        "queued",
        "sending",
        "accepted",
        "delivered",
    ]
    assert (stage.received(answered), stage.received(claimed)) == ([OTHER_PHONE], [phone])
    stage.assert_audit_is_clean()
