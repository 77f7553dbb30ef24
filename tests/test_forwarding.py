"""The receiver as a process of its own, checking signatures with the published library: killed, restarted, dead."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from messaging import statuses
from messaging.forwarding import receiver_state
from messaging.forwarding.delivery import Forwarder
from messaging.messages import status_events
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.databases import KINDS, empty_database
from tests.support.delivery import Clock, count, every, phones, queue
from tests.support.delivery_processes import in_processes, open_database
from tests.support.stack import Stack, eventually
from tests.support.webhook_receiver import ReceiverProcess
from utils.settings import Settings
from utils.webhook_client import WebhookClient

pytestmark = pytest.mark.processes

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
NEW_SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
PHONE = "+254711000001"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[ReceiverProcess]:
    receiver = ReceiverProcess(tmp_path / "receiver", SECRET)
    yield receiver
    receiver.kill()


@pytest.fixture
def forwarding_database(database: Database) -> Database:
    database.forwards = True
    return database


def add_events(database: Database, number: int) -> list[str]:
    ids = queue(database, *phones(number))
    with database.write() as connection:
        status_events.settle(connection, ids, statuses.CANCELLED, "asked_for", wall_clock(connection))
    return [row.event_id for row in every(database, tables.forward_events)]


def forwarder(database: Database, url: str, *secrets: str, deadline_seconds: float = 5.0) -> Forwarder:
    client = WebhookClient(url, secrets or (SECRET,), allow_private=True, deadline_seconds=deadline_seconds)
    return Forwarder(database, client, receiver_state.receiver_of(url), threading.Event())


def accepted_ids(receiver: ReceiverProcess) -> list[str]:
    return [line["id"] for line in receiver.accepted()]


def test_every_event_arrives_signed_as_the_published_library_wants_it(
    forwarding_database: Database, receiver: ReceiverProcess
) -> None:
    ids = add_events(forwarding_database, 200)
    receiver.start()
    forwarder(forwarding_database, receiver.url).run_until_idle()
    assert sorted(accepted_ids(receiver)) == sorted(ids)
    assert receiver.refused() == []
    kept = {row.event_id: json.loads(row.body) for row in every(forwarding_database, tables.forward_events)}
    assert {line["id"]: line["event"] for line in receiver.accepted()} == kept


def test_the_receiver_moves_to_a_new_secret_without_losing_an_event(
    forwarding_database: Database, tmp_path: Path
) -> None:
    old, new = (
        ReceiverProcess(tmp_path / name, secret) for name, secret in (("old", SECRET), ("new", NEW_SECRET))
    )
    try:
        for receiver in (old, new):
            ids = add_events(forwarding_database, 3)[-3:]
            receiver.start()
            forwarder(forwarding_database, receiver.url, SECRET, NEW_SECRET).run_until_idle()
            assert sorted(accepted_ids(receiver)) == sorted(ids)
            assert receiver.refused() == []
    finally:
        old.kill()
        new.kill()


def test_a_receiver_with_another_secret_takes_nothing(
    forwarding_database: Database, receiver: ReceiverProcess
) -> None:
    add_events(forwarding_database, 1)
    receiver.start()
    forwarder(forwarding_database, receiver.url, NEW_SECRET).run_until_idle()
    assert receiver.accepted() == []
    (row,) = every(forwarding_database, tables.forward_events)
    assert (row.state, row.http_status) == ("waiting", 400)


def test_an_answer_that_was_lost_brings_the_event_again_with_its_id(
    forwarding_database: Database, receiver: ReceiverProcess
) -> None:
    clock = Clock(forwarding_database)
    (event_id,) = add_events(forwarding_database, 1)
    receiver.start()
    receiver.behave(forget=True)
    forwarder(forwarding_database, receiver.url).run_until_idle()
    receiver.behave()
    clock.step(minutes=1)
    forwarder(forwarding_database, receiver.url).run_until_idle()
    assert accepted_ids(receiver) == [event_id, event_id]
    first, second = (line["event"] for line in receiver.accepted())
    assert first == second


def test_a_receiver_that_is_killed_and_restarted_gets_every_event(
    forwarding_database: Database, receiver: ReceiverProcess
) -> None:
    clock = Clock(forwarding_database)
    ids = set(add_events(forwarding_database, 600))
    receiver.start()
    lane = forwarder(forwarding_database, receiver.url)
    killer = threading.Thread(
        target=lambda: (eventually(lambda: len(receiver.accepted()) > 150, "some arrived"), receiver.kill())
    )
    killer.start()
    lane.run_until_idle()
    killer.join()
    assert 0 < len(set(accepted_ids(receiver))) < 600
    receiver.start()
    for _ in range(8):
        clock.step(minutes=5)
        lane.run_until_idle()
    assert set(accepted_ids(receiver)) == ids
    assert (
        count(forwarding_database, tables.forward_events, tables.forward_events.c.state != "delivered") == 0
    )


def forward_all(barrier: Any, settings: Settings, url: str) -> int:
    database = open_database(settings)
    barrier.wait()
    attempts = forwarder(database, url).run_until_idle()
    database.close()
    return attempts


def test_several_workers_share_the_events_without_posting_one_twice(
    forwarding_database: Database, settings: Settings, receiver: ReceiverProcess
) -> None:
    ids = add_events(forwarding_database, 400)
    receiver.start()
    attempts = in_processes(forward_all, [(settings, receiver.url)] * 3)
    assert sum(attempts) == 400
    assert sorted(accepted_ids(receiver)) == sorted(ids)


@pytest.fixture(params=KINDS)
def stack(request: pytest.FixtureRequest, tmp_path: Path, receiver: ReceiverProcess) -> Iterator[Stack]:
    """The whole service, forwarding to the receiver, which is not started."""
    forwarding = {
        "FORWARD_URL": receiver.url,
        "FORWARD_SECRET": SECRET,
        "FORWARD_ALLOW_PRIVATE": "true",
    }
    with empty_database(request.param, tmp_path) as database_url:
        stack = Stack(tmp_path, database_url, forwarding)
        try:
            stack.start_all()
            yield stack
        finally:
            stack.close()


def send(stack: Stack, *recipients: str) -> list[int]:
    answer = stack.post("/v1/messages", {"to": list(recipients), "text": "Clinic opens at nine"})
    return [message["id"] for message in answer.json()["messages"]]


def told(receiver: ReceiverProcess, name: str) -> list[dict[str, Any]]:
    return [line["event"]["data"] for line in receiver.accepted() if line["event"]["type"] == name]


def test_a_dead_receiver_delays_no_text_and_learns_all_once_it_is_back(
    stack: Stack, receiver: ReceiverProcess
) -> None:
    receiver.start()
    receiver.behave(hang_seconds=30)
    ids = send(stack, PHONE, *phones(30))
    eventually(lambda: all(stack.message(one)["status"] == "delivered" for one in ids), "all are delivered")
    stack.control("inbound", {"from": PHONE, "text": "STOP", "to": "20880"})
    eventually(lambda: stack.get("/v1/forwarding").json()["counts"]["waiting"] >= 33, "the events wait")
    assert receiver.accepted() == []
    receiver.kill()
    receiver.behave()
    receiver.start()
    stack.post("/v1/forwarding/resume", {})
    eventually(
        lambda: (
            stack.post("/v1/forwarding/resume", {}),
            {data["id"] for data in told(receiver, "message.delivered")} >= set(ids),
        )[1],
        "every final status arrived",
    )
    # Each event waits out a backoff of its own, so they come in any order.
    for kind in ("batch.finished", "inbound.received", "opt_out.recorded"):
        eventually(lambda kind=kind: told(receiver, kind), f"{kind} arrived")
    assert {(data["status"], data["total"]) for data in told(receiver, "batch.finished")} == {
        ("finished", 31)
    }
    assert [data["text"] for data in told(receiver, "inbound.received")] == ["STOP"]
    assert [data["phone"] for data in told(receiver, "opt_out.recorded")] == [PHONE]
    assert receiver.refused() == []


def test_the_skins_show_a_failing_receiver_and_send_an_event_again(
    stack: Stack, receiver: ReceiverProcess
) -> None:
    send(stack, PHONE)
    found = eventually(
        lambda: (answer := stack.get("/v1/forwarding").json())["state"] == "failing" and answer,
        "nobody listens",
    )
    assert found["reason"] == "the connection was refused"
    assert stack.flask("sms", "forwarding", "status").returncode == 1
    examined = stack.flask("sms", "doctor").stdout
    assert "failing to http://127.0.0.1" in examined, examined
    receiver.start()
    assert stack.flask("sms", "forwarding", "resume").returncode == 0
    eventually(lambda: told(receiver, "message.delivered"), "the event arrived")
    event_id = accepted_ids(receiver)[0]
    eventually(
        lambda: stack.get("/v1/forwarding", state="delivered").json()["items"], "the delivery is recorded"
    )
    assert stack.post(f"/v1/forwarding/{event_id}/resend", {}).json() == {"id": event_id, "state": "waiting"}
    eventually(lambda: accepted_ids(receiver).count(event_id) == 2, "it came again, with its id")
    assert stack.post("/v1/forwarding/evt_unknown/resend", {}).status_code == 404
