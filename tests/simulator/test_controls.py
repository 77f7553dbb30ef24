from typing import Any

import pytest
from flask.testing import FlaskClient

from simulator.config import Config, ConfigurationError
from simulator.state import Simulator


def owed(client: FlaskClient) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/_simulator/callbacks").get_json()["items"]
    return items


@pytest.mark.parametrize("kind", ["json", "data"])
def test_a_phone_sends_by_json_or_form(client: FlaskClient, kind: str) -> None:
    fields = {"from": "+254 711-000111", "text": "hi & bye", "to": "777", "linkId": "L1", "id": "my-id"}
    answer = client.post("/_simulator/inbound", **{kind: fields})
    assert answer.get_json() == {"id": "my-id", "from": "+254711000111", "to": "777"}
    (callback,) = owed(client)
    assert callback["kind"] == "inbound"
    assert callback["body"].endswith(
        "&from=%2B254711000111&id=my-id&text=hi+%26+bye&to=777&networkCode=63902&linkId=L1"
    )


def test_an_ordinary_inbound_goes_to_the_shortcode_without_a_link_id(client: FlaskClient) -> None:
    answer = client.post("/_simulator/inbound", json={"from": "+254711000111", "text": "hi"}).get_json()
    assert (answer["to"], len(answer["id"])) == ("20880", 36)
    assert "linkId" not in owed(client)[0]["body"]


def test_the_same_inbound_callback_may_come_several_times(client: FlaskClient) -> None:
    client.post("/_simulator/inbound", json={"from": "+254711000111", "text": "hi", "times": 5})
    assert len({callback["body"] for callback in owed(client)}) == 1
    assert len(owed(client)) == 5


def test_an_opt_out_owes_sender_and_number_and_no_more(client: FlaskClient) -> None:
    client.post("/_simulator/opt-out", json={"phoneNumber": "+254711000111", "senderId": "ACME"})
    assert [(each["kind"], each["body"]) for each in owed(client)] == [
        ("opt_out", "senderId=ACME&phoneNumber=%2B254711000111")
    ]


def test_a_subscription_owes_its_callback(client: FlaskClient) -> None:
    client.post("/_simulator/subscription", json={"phoneNumber": "+254711000111", "keyword": "NEWS"})
    assert owed(client)[0]["body"] == (
        "phoneNumber=%2B254711000111&shortCode=20880&keyword=NEWS&updateType=addition"
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("inbound", {"from": "nobody", "text": "hi"}),
        ("inbound", {"text": "hi"}),
        ("inbound", {"from": "+254711000111", "text": "hi", "times": "often"}),
        ("inbound", ["+254711000111"]),
        ("opt-out", {"phoneNumber": "+254711000111"}),
        ("opt-out", {"senderId": "ACME"}),
        ("subscription", {"phoneNumber": "+254711000111"}),
        ("faults", ["off"]),
    ],
)
def test_a_control_that_makes_no_sense_says_why(client: FlaskClient, path: str, body: Any) -> None:
    answer = client.post(f"/_simulator/{path}", json=body)
    assert answer.status_code == 400
    assert answer.get_json()["error"]


def test_other_sites_and_foreign_names_are_refused(client: FlaskClient) -> None:
    assert client.post("/_simulator/reset", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/_simulator/ledger", headers={"Host": "sms.example.com"}).status_code == 403
    assert client.get("/_simulator/ledger", headers={"Host": "localhost:8001"}).status_code == 200
    assert client.get("/_simulator/ledger", headers={"Host": "[::1]:8001"}).status_code == 200
    assert client.get("/_simulator/ledger", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.post("/_simulator/reset", headers={"Origin": "https://evil.com"}).status_code == 403
    assert client.post("/_simulator/reset", headers={"Origin": "null"}).status_code == 403
    outside = {"REMOTE_ADDR": "192.0.2.7"}
    assert client.get("/_simulator/ledger", environ_base=outside).status_code == 403
    own_form = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/_simulator/reset", headers=own_form).status_code != 403


@pytest.mark.parametrize(
    "wrong", [{"host": "0.0.0.0"}, {"host": "192.168.1.4"}, {"service_url": "http://example.com"}]
)
def test_only_this_machine_is_served_and_called(wrong: dict[str, str], simulator: Simulator) -> None:
    with pytest.raises(ConfigurationError):
        Config(simulator.config.database, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_every_loopback_name_will_do(host: str, simulator: Simulator) -> None:
    assert Config(simulator.config.database, host=host).host == host
