"""The grammar of faults, and every fault that needs no real socket."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from simulator.state import Simulator

HEADERS = {"apiKey": "any", "Accept": "application/json"}


def send(client: FlaskClient, *numbers: str, sender: str = "20880") -> TestResponse:
    form = {"username": "x", "to": ",".join(numbers or ["+254711000111"]), "message": "a", "from": sender}
    return client.post("/version1/messaging", data=form, headers=HEADERS)


def set_faults(client: FlaskClient, **faults: Any) -> dict[str, Any]:
    answer = client.post("/_simulator/faults", json=faults)
    assert answer.status_code == 200, answer.text
    described: dict[str, Any] = answer.get_json()
    return described


def received(client: FlaskClient) -> list[str]:
    return [item["to"] for item in client.get("/_simulator/ledger").get_json()["items"]]


def owed_words(client: FlaskClient) -> list[str]:
    items = client.get("/_simulator/callbacks").get_json()["items"]
    return [item["body"].split("&status=")[1].split("&")[0] for item in items]


@pytest.mark.parametrize(
    ("name", "setting", "described"),
    [
        ("latency_seconds", True, {"value": 1}),
        ("latency_seconds", 0.25, {"value": 0.25}),
        ("latency_seconds", 0, False),
        ("latency_seconds", None, False),
        ("hang_after_accept", {"count": 2}, {"value": 120, "count": 2}),
        ("hang_after_accept", {"count": 0}, False),
        ("reset_after_accept", True, True),
        ("reset_after_accept", 0.5, {"probability": 0.5}),
        ("reset_after_accept", 3, {"count": 3}),
        ("drop_recipients", {"numbers": ["77", "88"]}, {"numbers": ["77", "88"]}),
        ("status_429", {"retry_after": 7, "probability": 0.5}, {"value": 7, "probability": 0.5}),
        ("status_5xx", 502, {"value": 502}),
        ("invalid_sender", ["ACME"], {"value": ["ACME"]}),
        ("invalid_sender", True, True),
    ],
)
def test_a_fault_is_described_as_it_could_be_set_again(
    client: FlaskClient, name: str, setting: Any, described: Any
) -> None:
    assert set_faults(client, **{name: setting})[name] == described
    assert set_faults(client, **{name: described})[name] == described


@pytest.mark.parametrize("reports", [{"off": True}, "off", ["off"]])
def test_report_faults_come_as_an_object_a_word_or_a_list(client: FlaskClient, reports: Any) -> None:
    assert set_faults(client, reports=reports)["reports"]["off"] is True
    assert set_faults(client, reports=False)["reports"]["off"] is False


@pytest.mark.parametrize(
    "faults",
    [
        {"no_such_fault": True},
        {"reports": {"lost": True}},
        {"reports": 3},
        {"latency_seconds": "slow"},
        {"latency_seconds": -1},
        {"status_5xx": 404},
        {"reset_after_accept": "yes"},
        {"reset_after_accept": 1.5},
        {"bad_key": {"often": True}},
        {"bad_key": {"count": "many"}},
        {"bad_key": {"probability": 2}},
        {"bad_key": {"numbers": "77"}},
        {"reports": {"duplicated": 1}},
    ],
)
def test_a_fault_outside_the_grammar_changes_nothing(client: FlaskClient, faults: dict[str, Any]) -> None:
    answer = client.post("/_simulator/faults", json={"shuffle_answer": True} | faults)
    assert answer.status_code == 400
    assert answer.get_json()["error"]
    assert client.get("/_simulator/faults").get_json()["shuffle_answer"] is False


def test_a_count_is_used_up(client: FlaskClient) -> None:
    set_faults(client, status_5xx={"count": 2})
    assert [send(client).status_code for _ in range(3)] == [503, 503, 201]
    assert client.get("/_simulator/faults").get_json()["status_5xx"] is False


def test_numbers_limit_a_fault_to_posts_that_hold_one(client: FlaskClient) -> None:
    set_faults(client, status_5xx={"numbers": ["77"]})
    assert send(client, "+254711000111").status_code == 201
    assert send(client, "+254711000111", "+254711000177").status_code == 503


def test_a_probability_strikes_sometimes(client: FlaskClient) -> None:
    set_faults(client, status_5xx={"probability": 0.5})
    assert {send(client).status_code for _ in range(60)} == {201, 503}


def test_429_carries_retry_after_and_accepts_nothing(client: FlaskClient) -> None:
    set_faults(client, status_429={"retry_after": 7})
    answer = send(client)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert received(client) == []


def test_5xx_before_accepting_accepts_nothing_and_after_it_everything(client: FlaskClient) -> None:
    set_faults(client, status_5xx=502)
    assert (send(client).status_code, received(client)) == (502, [])
    set_faults(client, status_5xx=False, status_5xx_after_accept=True)
    assert (send(client).status_code, received(client)) == (500, ["+254711000111"])


def test_a_bad_key_is_refused_on_every_endpoint(client: FlaskClient) -> None:
    set_faults(client, bad_key=True)
    assert send(client).status_code == 401
    assert client.get("/version1/user", headers=HEADERS).status_code == 401
    assert client.get("/version1/messaging", headers=HEADERS).status_code == 401


def test_a_probe_does_not_use_up_a_count(client: FlaskClient) -> None:
    set_faults(client, bad_key={"count": 1})
    assert client.get("/version1/user", headers=HEADERS).status_code == 200
    assert send(client).status_code == 401


def test_an_unregistered_sender_is_a_201_without_recipients(client: FlaskClient) -> None:
    set_faults(client, invalid_sender=["ACME"])
    refusal = {"SMSMessageData": {"Message": "InvalidSenderId", "Recipients": []}}
    answer = send(client, sender="ACME")
    assert (answer.status_code, answer.get_json()) == (201, refusal)
    assert len(send(client, sender="20880").get_json()["SMSMessageData"]["Recipients"]) == 1
    set_faults(client, invalid_sender=True)
    assert send(client, sender="20880").get_json() == refusal


def test_an_empty_account_refuses_each_recipient(client: FlaskClient) -> None:
    set_faults(client, insufficient_balance={"numbers": ["222"]})
    recipients = send(client, "+254711000111", "+254711000222").get_json()["SMSMessageData"]["Recipients"]
    assert [recipient["statusCode"] for recipient in recipients] == [101, 405]


def test_a_dropped_recipient_is_accepted_but_not_answered(client: FlaskClient) -> None:
    set_faults(client, drop_recipients={"numbers": ["222"]})
    content = send(client, "+254711000111", "+254711000222").get_json()["SMSMessageData"]
    assert [recipient["number"] for recipient in content["Recipients"]] == ["+254711000111"]
    assert received(client) == ["+254711000111", "+254711000222"]


def test_a_shuffled_answer_has_the_same_recipients_in_another_order(client: FlaskClient) -> None:
    numbers = [f"+2547110{index:05d}" for index in range(10000, 10200)]
    set_faults(client, shuffle_answer=True)
    answered = [each["number"] for each in send(client, *numbers).get_json()["SMSMessageData"]["Recipients"]]
    assert answered != numbers
    assert sorted(answered) == numbers


@pytest.mark.parametrize(
    ("reports", "words"),
    [
        ({}, ["Success"]),
        ({"duplicated": True}, ["Success"] * 2),
        ({"duplicated": 4}, ["Success"] * 4),
        ({"reordered": True}, ["Success", "Sent"]),
        ({"dropped": True}, []),
        ({"off": True}, []),
        ({"unknown_word": True}, ["Teleported"]),
        ({"unknown_word": "Half way"}, ["Half+way"]),
    ],
)
def test_report_faults_change_what_is_owed(
    client: FlaskClient, reports: dict[str, Any], words: list[str]
) -> None:
    set_faults(client, reports=reports)
    send(client)
    assert owed_words(client) == words


def test_a_report_fault_counts_recipients(client: FlaskClient) -> None:
    set_faults(client, reports={"dropped": {"count": 2}})
    send(client, "+254711000111", "+254711000222", "+254711000333")
    assert owed_words(client) == ["Success"]


def test_a_connection_fault_accepts_before_or_after_it_strikes(client: FlaskClient) -> None:
    for name, accepted in (("reset_before_accept", 0), ("reset_after_accept", 1)):
        set_faults(client, **{name: {"count": 1}})
        with pytest.raises(ConnectionResetError):
            send(client)
        assert len(received(client)) == accepted


def test_faults_survive_in_the_database(simulator: Simulator) -> None:
    simulator.faults.set({"hang_after_accept": {"count": 2}, "reports": {"off": True}})
    assert simulator.faults.fires("hang_after_accept") == 120
    simulator.faults.reload()
    described = simulator.faults.describe()
    assert described["hang_after_accept"] == {"value": 120, "count": 1}
    assert described["reports"]["off"] is True
