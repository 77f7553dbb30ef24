"""No space left: every write of a process fails (RLIMIT_FSIZE 0), while it runs, until space is there again."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import requests

from tests.crash.scene import Scene, linger, needs_linux, processes_of, scene
from tests.support.stack import SHORTCODE, eventually

PHONE = "+254711444010"
OTHER = "+254711444011"

pytestmark = [pytest.mark.processes, needs_linux]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Scene]:
    with scene("sqlite", tmp_path) as found:
        found.stack.start("worker")
        found.send(PHONE, "Before")
        eventually(lambda: found.statuses_of("Before") == ["delivered"], "all is well at first")
        yield found


@contextmanager
def full_disk(stage: Scene, *names: str) -> Iterator[None]:
    limit_files(stage, names, 0)
    yield
    limit_files(stage, names, resource.RLIM_INFINITY)


def limit_files(stage: Scene, names: tuple[str, ...], most_bytes: int) -> None:
    for name in names:
        for process_id in processes_of(stage.stack, name):
            resource.prlimit(process_id, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


def call_everything(stage: Scene) -> dict[str, requests.Response]:
    """Each with its key or id, as a careful caller would call again."""
    stack = stage.stack
    inbound = {"from": OTHER, "to": SHORTCODE, "text": "Hello", "id": "inbound-on-a-full-disk"}
    trigger = {"phone": PHONE, "message": "Trigger", "idempotency_key": "trigger-key"}
    return {
        "send": stack.post("/v1/messages", {"to": PHONE, "text": "Send"}, **{"Idempotency-Key": "send-key"}),
        "trigger": stack.get("/sms/invoke-bulk-sms", **trigger),
        "inbound": stack.callback("/sms/twoway", inbound),
        "opt-out": stack.callback(
            "/sms/opt-out", {"phoneNumber": "+254711444012", "senderId": "AFRICASTKNG"}
        ),
    }


@pytest.mark.parametrize("is_killed", [False, True], ids=["space is made", "killed and started again"])
def test_a_full_disk_refuses_everything_and_half_writes_nothing(stage: Scene, is_killed: bool) -> None:
    with full_disk(stage, "web", "worker"):
        refused = call_everything(stage)
        linger(1)
        if is_killed:
            for name in ("web", "worker"):
                stage.stack.kill(name)
    if is_killed:
        for name in ("web", "worker"):
            stage.stack.start(name)
        stage.wait_for_web()

    assert {name: answer.status_code for name, answer in refused.items()} == dict.fromkeys(refused, 503)
    assert [item["text"] for item in stage.stack.ledger()] == ["Before"]
    assert {row: count for row, count in stage.count_by_status().items() if count} == {"delivered": 1}

    accepted = call_everything(stage)

    expected = {"send": 202, "trigger": 200, "inbound": 200, "opt-out": 200}
    assert {name: answer.status_code for name, answer in accepted.items()} == expected
    eventually(lambda: stage.count_by_status()["delivered"] == 4, "all is sent")
    stage.wait_for_rest()
    reply = 'This is a response to: "Hello"'
    assert sorted(item["text"] for item in stage.stack.ledger()) == ["Before", "Send", reply, "Trigger"]
    stage.assert_audit_is_clean()
    with closing(sqlite3.connect(stage.stack.folder / "sms.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_answer_that_comes_while_the_disk_is_full_is_kept_until_it_can_be_written(stage: Scene) -> None:
    stage.stack.control("faults", {"latency_seconds": {"value": 2, "count": 1}})
    stage.send(PHONE, "During")
    eventually(lambda: [one.state for one in stage.attempts_of("During")] == ["posting"], "it posts")

    with full_disk(stage, "worker"):
        eventually(lambda: stage.received("During") == [PHONE], "the phone has it")
        linger(2)
        assert stage.statuses_of("During") == ["sending"]

    eventually(lambda: stage.statuses_of("During") == ["delivered"], "the answer is written")
    assert [status for status, _ in stage.histories_of("During")[0]] == [
        "queued",
        "sending",
        "accepted",
        "delivered",
    ]
    assert stage.received("During") == [PHONE]
    stage.assert_audit_is_clean()
