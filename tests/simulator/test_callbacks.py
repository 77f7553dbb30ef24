"""Callbacks, resets and crashes, on a real process and real sockets."""

import re
import signal
import time
from pathlib import Path

import pytest
import requests

from simulator.owed import KEPT_SECONDS, Attempt, due_callbacks, settle
from simulator.state import Simulator
from tests.simulator.real_simulator import RealSimulator, Receiver, eventually

pytestmark = pytest.mark.processes

NUMBER = "+254711000111"


def test_a_text_is_reported_once_with_its_id(real: RealSimulator, receiver: Receiver) -> None:
    sent = real.send(NUMBER).json()["SMSMessageData"]["Recipients"][0]
    eventually(lambda: receiver.reports, "the report comes")
    assert receiver.reports == [
        {
            "phoneNumber": NUMBER,
            "retryCount": "0",
            "id": sent["messageId"],
            "status": "Success",
            "networkCode": "63902",
        }
    ]
    eventually(lambda: real.look("callbacks")["acknowledged"] == 1, "the report counts as taken")
    assert real.look("callbacks")["owed"] == 0


def test_every_kind_of_callback_reaches_its_own_url_with_the_token(
    tmp_path: Path, receiver: Receiver
) -> None:
    with RealSimulator(tmp_path / "simulator.db", receiver.url, "--token", "s3cret&co") as real:
        real.send(NUMBER)
        inbound_id = real.control("inbound", **{"from": NUMBER, "text": "hi"})["id"]
        real.control("opt-out", phoneNumber=NUMBER, senderId="ACME")
        real.control("subscription", phoneNumber=NUMBER, keyword="NEWS", updateType="deletion")
        eventually(lambda: len(receiver.callbacks) == 4, "all four come")
    assert set(receiver.queries) == {"token=s3cret%26co"}
    (inbound,) = receiver.inbound
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", inbound.pop("date"))
    assert inbound == {"from": NUMBER, "to": "20880", "text": "hi", "id": inbound_id, "networkCode": "63902"}
    assert receiver.bodies("/sms/opt-out") == [{"senderId": "ACME", "phoneNumber": NUMBER}]
    assert receiver.bodies("/sms/subscription")[0]["updateType"] == "deletion"
    assert receiver.content_types == {
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=UTF-8",
    }


def test_a_callback_is_repeated_until_it_gets_200(real: RealSimulator, receiver: Receiver) -> None:
    receiver.statuses = [503, 201, 404, 302]
    real.control("inbound", **{"from": NUMBER, "text": "hi"})
    eventually(lambda: len(receiver.inbound) == 5, "the fifth try comes")
    eventually(lambda: real.look("callbacks")["owed"] == 0, "it is settled")
    assert real.look("callbacks")["attempts"] == 5
    assert len({body["id"] for body in receiver.inbound}) == 1


def test_after_twelve_hours_at_gives_up(simulator: Simulator) -> None:
    with simulator.store.write() as connection:
        connection.execute(
            "INSERT INTO callbacks (kind, body, due_at, expires_at) VALUES ('inbound', '', 0, ?)",
            (KEPT_SECONDS,),
        )
    (owed,) = due_callbacks(simulator.store, time.time(), 10)
    settle(simulator.store, [Attempt(owed, "503", KEPT_SECONDS - 1)], 60)
    (again,) = simulator.store.rows("SELECT * FROM callbacks")
    assert (again["attempts"], again["last_result"], again["due_at"]) == (1, "503", KEPT_SECONDS + 59)
    settle(simulator.store, [Attempt(owed, "503", KEPT_SECONDS)], 60)
    assert simulator.store.rows("SELECT * FROM callbacks") == []
    assert simulator.store.totals()["callbacks_given_up"] == 1


def test_a_report_can_come_before_the_answer(real: RealSimulator, receiver: Receiver) -> None:
    real.control("faults", reports="before_answer")
    real.send(NUMBER)
    assert len(receiver.reports) == 1


def test_delayed_reports_come_later(real: RealSimulator, receiver: Receiver) -> None:
    real.control("faults", reports={"delayed": {"value": 0.8, "numbers": ["222"]}})
    real.send("+254711000222", NUMBER)
    eventually(lambda: len(receiver.reports) == 2, "both come")
    assert [report["phoneNumber"] for report in receiver.reports] == [NUMBER, "+254711000222"]


@pytest.mark.parametrize(
    ("fault", "accepted"), [("reset_before_accept", []), ("reset_after_accept", [NUMBER])]
)
def test_a_reset_is_a_real_one(real: RealSimulator, fault: str, accepted: list[str]) -> None:
    real.control("faults", **{fault: {"count": 1}})
    with pytest.raises(requests.ConnectionError) as caught:
        real.send(NUMBER)
    assert "ConnectionResetError" in str(caught.value)
    assert real.ledger() == accepted
    assert real.send(NUMBER).status_code == 201


@pytest.mark.parametrize(
    ("fault", "number", "accepted"),
    [
        ({"hang_before_accept": True}, NUMBER, []),
        ({"hang_after_accept": True}, NUMBER, [NUMBER]),
        ({}, "+256711000903", ["+256711000903"]),
    ],
)
def test_a_hanging_answer_never_comes(
    real: RealSimulator, receiver: Receiver, fault: dict[str, bool], number: str, accepted: list[str]
) -> None:
    real.control("faults", **fault)
    with pytest.raises(requests.ReadTimeout):
        real.send(number, timeout=0.5)
    assert real.ledger() == accepted
    eventually(lambda: len(receiver.reports) == len(accepted), "a report comes for what was accepted")


def test_a_hang_of_so_many_seconds_ends_with_a_cut(real: RealSimulator) -> None:
    real.control("faults", hang_after_accept=0.2)
    with pytest.raises(requests.ConnectionError):
        real.send(NUMBER)


def test_latency_delays_the_answer_and_the_acceptance(real: RealSimulator) -> None:
    real.control("faults", latency_seconds=0.6)
    started = time.monotonic()
    real.send(NUMBER)
    assert time.monotonic() - started >= 0.6


def test_a_reset_lets_held_connections_go(real: RealSimulator) -> None:
    real.control("faults", hang_before_accept=True)
    with pytest.raises(requests.ReadTimeout):
        real.send(NUMBER, timeout=0.3)
    real.control("reset")
    assert real.send(NUMBER).status_code == 201
    assert real.ledger() == [NUMBER]


def test_a_hung_up_caller_frees_its_thread(real: RealSimulator) -> None:
    real.control("faults", hang_after_accept={"count": 40})
    for _ in range(40):
        with pytest.raises(requests.ReadTimeout):
            real.send(NUMBER, timeout=0.05)
    assert real.send(NUMBER).status_code == 201


def test_everything_survives_sigkill(mortal: RealSimulator, receiver: Receiver) -> None:
    receiver.usual = 503
    mortal.send(NUMBER)
    mortal.control("inbound", **{"from": NUMBER, "text": "hi"})
    mortal.control("opt-out", phoneNumber=NUMBER, senderId="ACME")
    mortal.control("faults", status_429={"count": 3})
    eventually(lambda: len(receiver.callbacks) >= 3, "all were tried")
    mortal.end(signal.SIGKILL)
    receiver.callbacks.clear()
    receiver.usual = 200
    mortal.start()
    eventually(lambda: mortal.look("callbacks")["owed"] == 0, "what was owed is posted")
    assert {path for path, _ in receiver.callbacks} == {
        "/sms/delivery-reports",
        "/sms/twoway",
        "/sms/opt-out",
    }
    assert mortal.ledger() == [NUMBER]
    assert mortal.look("faults")["status_429"] == {"value": 1, "count": 3}
    mortal.control("faults", status_429=False)
    refused = mortal.send(NUMBER, sender="ACME").json()["SMSMessageData"]["Recipients"][0]
    assert refused["statusCode"] == 406


def test_a_killed_simulator_gives_its_port_back_though_a_caller_hangs(mortal: RealSimulator) -> None:
    with pytest.raises(requests.ReadTimeout):
        mortal.send("+254711000903", timeout=0.2)
    mortal.end(signal.SIGKILL)
    started = time.monotonic()
    mortal.start()
    assert time.monotonic() - started < 5


def test_sigterm_ends_it_quickly_and_well_though_a_caller_hangs(mortal: RealSimulator) -> None:
    with requests.Session() as other, pytest.raises(requests.ReadTimeout):
        other.post(
            f"{mortal.url}/version1/messaging",
            data={"username": "x", "to": "+254711000903", "message": "a"},
            headers={"apiKey": "k"},
            timeout=0.2,
        )
    mortal.end(signal.SIGTERM)
    assert mortal.process is not None
    assert mortal.process.returncode == 0


def test_a_wrong_key_is_refused_when_one_is_set(tmp_path: Path, receiver: Receiver) -> None:
    with RealSimulator(tmp_path / "simulator.db", receiver.url, "--api-key", "right") as real:
        assert real.send(NUMBER).status_code == 401
        real.session.headers["apiKey"] = "right"
        answer = real.session.get(f"{real.url}/version1/user?username=x", timeout=5)
        assert answer.status_code == 200
