"""Test keys across real processes and sockets: all of the real code, never AT, and no figure of the live account."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import func, select

from messaging.storage import tables
from tests.support.databases import KINDS, empty_database, opened
from tests.support.stack import Stack, eventually
from tests.support.stopping import stop_outside_a_write
from tests.support.webhook_receiver import ReceiverProcess

pytestmark = pytest.mark.processes

FORWARD_SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
# What a worker that is merely there writes, and when a key was last used.
MOVING_TABLES = {"heartbeats", "database_identity", "witness_folders", "clock_anchors", "api_keys"}
MOVING_FIGURES = ("_seconds", "python_", "process_")


class TestKeyCaller:
    """The stack as the holder of a test key sees it."""

    __test__ = False

    def __init__(self, stack: Stack, key: str) -> None:
        self._stack = stack
        self._headers = {"Authorization": f"Bearer {key}"}

    def get(self, path: str, **query: Any) -> requests.Response:
        url = f"{self._stack.web_url}{path}"
        return self._stack.session.get(url, params=query, headers=self._headers, timeout=30)

    def post(self, path: str, body: Any = None, **headers: str) -> requests.Response:
        url = f"{self._stack.web_url}{path}"
        return self._stack.session.post(url, json=body, headers=self._headers | headers, timeout=30)

    def send(self, to: str | list[str], text: str = "A test", **headers: str) -> list[int]:
        answer = self.post("/v1/messages", {"to": to, "text": text}, **headers)
        assert answer.status_code == 202, answer.text
        return [one["id"] for one in answer.json()["messages"]]

    def message(self, message_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/messages/{message_id}").json()
        return found

    def await_status(self, message_id: int, status: str) -> dict[str, Any]:
        eventually(lambda: self.message(message_id)["status"] == status, f"{message_id} becomes {status}")
        return self.message(message_id)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    receiver = ReceiverProcess(tmp_path_factory.mktemp("receiver"), FORWARD_SECRET)
    receiver.start()
    yield receiver
    receiver.kill()


@pytest.fixture(scope="module", params=KINDS)
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, receiver: ReceiverProcess
) -> Iterator[Stack]:
    """On PostgreSQL with test data on the server too, as several machines have it."""
    folder: Path = tmp_path_factory.mktemp("stack")
    with ExitStack() as databases:
        url = databases.enter_context(empty_database(request.param, folder))
        tests_url = f"sqlite:///{folder / 'test-keys.db'}"
        if request.param != "sqlite":
            tests_url = databases.enter_context(empty_database(request.param, folder))
        settings = {
            "TEST_KEYS_DATABASE_URL": tests_url,
            "DAILY_LIMIT": "KES 8",
            "FORWARD_URL": receiver.url,
            "FORWARD_SECRET": FORWARD_SECRET,
            "FORWARD_ALLOW_PRIVATE": "true",
        }
        stack = Stack(folder, url, settings)
        try:
            stack.start_all()
            yield stack
        finally:
            stack.close()


@pytest.fixture(scope="module")
def tester(stack: Stack) -> TestKeyCaller:
    made = stack.flask("sms", "keys", "create", "--name", "billing", "--scope", "send,read", "--test")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("sms_test_")
    return TestKeyCaller(stack, made.stdout.strip())


def live_rows(stack: Stack) -> dict[str, list[str]]:
    """All that the live database holds."""
    with opened(stack.environment["DATABASE_URL"]) as database, database.read() as connection:
        found = {
            table.name: connection.execute(select(table)).all() for table in tables.metadata.sorted_tables
        }
    return {name: sorted(map(str, rows)) for name, rows in found.items() if name not in MOVING_TABLES}


def live_figures(stack: Stack) -> dict[str, Any]:
    # A balance that was asked for is a figure too.
    balance = stack.get("/v1/balance").json()["balance"]
    lines = (one.rpartition(" ") for one in stack.get("/metrics").text.splitlines() if one[0] != "#")
    metrics = {name: value for name, _, value in lines if not any(part in name for part in MOVING_FIGURES)}
    return metrics | {
        "stats": stack.get("/v1/stats").json(),
        "balance": balance,
        "batches": stack.get("/v1/batches").json(),
        "messages": stack.get("/v1/messages").json(),
        "callbacks": stack.get("/v1/callbacks").json(),
        "held": stack.get("/v1/held").json(),
        "opt_outs": stack.get("/v1/opt-outs").json(),
        "audit": stack.get("/v1/audit").json()["counts"],
    }


def test_texts_end_as_their_last_digits_say_and_no_live_figure_moves(
    stack: Stack, tester: TestKeyCaller
) -> None:
    ends = {
        "+254711000101": "delivered",
        "+254711000900": "failed",
        "+254711000901": "failed",
        "+254711000902": "accepted",
        "+254711000403": "rejected",
    }
    live = stack.post("/v1/messages", {"to": "+254711000100", "text": "Live"}).json()["messages"][0]["id"]
    eventually(lambda: stack.message(live)["status"] == "delivered", "the live text is delivered")
    eventually(lambda: stack.get("/v1/batches").json()["items"][0]["status"] == "finished", "it is over")
    eventually(lambda: stack.get("/v1/forwarding", state="waiting").json()["items"] == [], "all is told")
    before = live_figures(stack) | live_rows(stack) | {"ledger": stack.ledger()}

    single = tester.send("+254711000101")
    # Four times over the daily limit.
    many = tester.send([f"+25471200{number:04d}" for number in range(1000, 1040)])
    ids = dict(zip([one for one in ends if one != "+254711000101"], tester.send(list(ends)[1:]), strict=True))

    delivered = tester.await_status(single[0], "delivered")
    assert delivered["cost"] == {"amount": "0.8000", "currency": "KES"}
    assert delivered["provider_message_id"].startswith("ATXid_")
    assert [step["status"] for step in delivered["history"]] == ["queued", "sending", "accepted", "delivered"]
    for message_id in many:
        tester.await_status(message_id, "delivered")
    for phone, message_id in ids.items():
        tester.await_status(message_id, ends[phone])
    # Last and alone: such a POST leaves all of its texts in doubt.
    hung = tester.send("+254711000903")[0]
    assert tester.await_status(hung, "delivered")["cost"] is None
    after = live_figures(stack) | live_rows(stack) | {"ledger": stack.ledger()}
    assert {name: (before[name], after[name]) for name in after if before[name] != after[name]} == {}
    totals = tester.get("/v1/stats").json()["totals"]
    assert totals["counts"]["delivered"] == 42
    assert tester.get("/v1/callbacks").json()["items"][0]["kind"] == "report"


def test_events_go_to_the_same_system_and_say_that_they_are_of_a_test_key(
    stack: Stack, tester: TestKeyCaller, receiver: ReceiverProcess
) -> None:
    known = len(receiver.accepted())
    live = stack.post("/v1/messages", {"to": "+254711000150", "text": "Live"}).status_code
    tester.send("+254711000151")
    assert live == 202

    def told() -> dict[str, bool]:
        events = [one["event"] for one in receiver.accepted()[known:]]
        return {
            event["data"]["to"]: event.get("test", False)
            for event in events
            if event["type"] == "message.delivered" and event["data"]["to"][-3:] in ("150", "151")
        }

    marks = {"+254711000150": False, "+254711000151": True}
    eventually(lambda: told() == marks, "both are told")
    assert receiver.refused() == []


def test_a_trigger_and_a_file_go_the_same_way(stack: Stack, tester: TestKeyCaller) -> None:
    key = tester._headers["Authorization"].removeprefix("Bearer ")
    answer = stack.session.get(
        f"{stack.web_url}/sms/invoke-twoway-sms",
        params={"phone": "254711000110", "message": "Now", "api_key": key},
        timeout=30,
    )
    upload = stack.session.post(
        f"{stack.web_url}/v1/batches",
        files={"file": ("list.csv", "phone,name\n+254711000111,Ann\n+254711000406,Ben\n")},
        data={"text": "Hello {{name}}"},
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
    )

    assert answer.json()["message"] == "SMS sent to +254711000110"
    assert upload.status_code == 202, upload.text
    path = f"/v1/batches/{upload.json()['id']}"
    eventually(lambda: tester.get(path).json()["counts"] == {"delivered": 1, "rejected": 1}, "it is over")
    csv = tester.get(f"{path}/messages.csv").text
    assert "+254711000111" in csv
    assert [one["status"] for one in tester.get("/v1/messages", to="+254711000110").json()["items"]] == [
        "delivered"
    ]
    assert [stack.ledger(phone) for phone in ("+254711000110", "+254711000111")] == [[], []]


def test_one_idempotency_key_is_two_messages_and_neither_side_reads_the_other(
    stack: Stack, tester: TestKeyCaller
) -> None:
    body = {"to": "+254711000120", "text": "Once"}
    key = {"Idempotency-Key": "order-7"}
    tested = tester.post("/v1/messages", body, **key)
    live = stack.post("/v1/messages", body, **key)

    assert (tested.status_code, live.status_code) == (202, 202)
    assert "Idempotent-Replay" not in live.headers
    assert tester.post("/v1/messages", body, **key).headers["Idempotent-Replay"] == "true"
    eventually(lambda: len(stack.ledger("+254711000120")) == 1, "the live one arrives")
    test_id = tested.json()["messages"][0]["id"]
    last = max(test_id, live.json()["messages"][0]["id"])
    assert tester.message(test_id)["to"] == "+254711000120"
    assert len(stack.messages_to("+254711000120")) == 1
    assert stack.messages_to("+254711000101") == []
    assert tester.get("/v1/messages", to="+254711000100").json()["items"] == []
    assert stack.get(f"/v1/messages/{last + 1}").status_code == 404


def test_what_blocks_or_pauses_on_one_side_does_nothing_on_the_other(
    stack: Stack, tester: TestKeyCaller
) -> None:
    put = stack.session.put
    answer = put(f"{stack.web_url}/v1/opt-outs/+254711000130", json={}, headers=tester._headers, timeout=30)
    assert answer.status_code == 200, answer.text
    blocked = tester.send("+254711000130")[0]
    tester.await_status(blocked, "blocked")
    assert stack.get("/v1/opt-outs").json()["items"] == []
    # No money: that pauses the test account, not the live one.
    poor = tester.send("+254711000405")[0]
    eventually(lambda: len(tester.message(poor)["history"]) >= 3, "the provider has answered")
    with opened(stack.environment["DATABASE_URL"]) as live:

        def count(table: Any) -> int:
            with live.read() as connection:
                return connection.execute(select(func.count()).select_from(table)).scalar_one()

        sent = stack.post("/v1/messages", {"to": "+254711000130", "text": "Live"}).json()["messages"][0]["id"]
        eventually(lambda: stack.message(sent)["status"] == "delivered", "the live text is delivered")
        assert count(tables.pauses) == 0
    # It stays queued, and each try would pause the account again.
    assert tester.post(f"/v1/batches/{tester.message(poor)['batch_id']}/cancel").status_code == 200
    assert tester.post("/v1/sending/resume").status_code == 200
    again = tester.send("+254711000131")[0]
    tester.await_status(again, "delivered")


def test_a_test_key_has_no_way_to_the_live_side(stack: Stack, tester: TestKeyCaller) -> None:
    for path in ("/metrics", "/v1/actions"):
        assert tester.get(path).status_code == 403


def test_a_worker_that_is_killed_loses_no_test_text(stack: Stack, tester: TestKeyCaller) -> None:
    with ExitStack() as opening:
        urls = [stack.environment["DATABASE_URL"], stack.environment["TEST_KEYS_DATABASE_URL"]]
        databases = [opening.enter_context(opened(url)) for url in urls]
        worker = stack.processes["worker"].pid
        stop_outside_a_write(lambda: stack.signal("worker", signal.SIGSTOP), worker, *databases)
    ids = tester.send([f"+25471300{number:04d}" for number in range(1000, 1020)])
    stack.kill("worker")
    stack.start("worker")
    for message_id in ids:
        tester.await_status(message_id, "delivered")


def test_forget_erases_there_too(stack: Stack, tester: TestKeyCaller) -> None:
    sent = tester.send("+254711000140", "About Ann")[0]
    tester.await_status(sent, "delivered")

    done = stack.flask("sms", "forget", "+254711000140", "--yes", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["erased"]["test_messages"] == 1
    assert tester.message(sent)["text"] != "About Ann"
