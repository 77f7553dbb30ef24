import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

HEADERS = {"apiKey": "any", "Accept": "application/json"}


def send(client: FlaskClient, *numbers: str, **fields: str) -> TestResponse:
    form = {"username": "sandbox", "to": ",".join(numbers), "message": "Habari", "enqueue": "1"} | fields
    return client.post("/version1/messaging", data=form, headers=HEADERS)


def sent(client: FlaskClient, *numbers: str, **fields: str) -> dict[str, Any]:
    answer = send(client, *numbers, **fields)
    assert answer.status_code == 201
    content: dict[str, Any] = answer.get_json()["SMSMessageData"]
    return content


def ledger(client: FlaskClient, query: str = "") -> list[dict[str, str]]:
    items: list[dict[str, str]] = client.get(f"/_simulator/ledger{query}").get_json()["items"]
    return items


def balance(client: FlaskClient) -> str:
    content: str = client.get("/version1/user?username=x", headers=HEADERS).get_json()["UserData"]["balance"]
    return content


def test_an_accepted_text_is_answered_in_the_recorded_shape(client: FlaskClient) -> None:
    answer = send(client, "+254711000111")
    assert (answer.status_code, answer.headers["Content-Type"]) == (201, "application/json")
    content = answer.get_json()["SMSMessageData"]
    (recipient,) = content["Recipients"]
    assert content["Message"] == "Sent to 1/1 Total Cost: KES 0.8000"
    assert re.fullmatch(r"ATXid_[0-9a-f]{32}", recipient.pop("messageId"))
    assert recipient == {
        "cost": "KES 0.8000",
        "messageParts": 1,
        "number": "+254711000111",
        "status": "Success",
        "statusCode": 102,
    }


def test_without_enqueue_the_code_is_101(client: FlaskClient) -> None:
    assert sent(client, "+254711000111", enqueue="0")["Recipients"][0]["statusCode"] == 101


def test_every_recipient_gets_an_id_of_its_own(client: FlaskClient) -> None:
    recipients = sent(client, *(f"+2547110{index:05d}" for index in range(10000, 10300)))["Recipients"]
    assert len({recipient["messageId"] for recipient in recipients}) == 300


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("a" * 152 + "€" + "a" * 10, 2),
        ("ሰ" * 70, 1),
        ("ሰ" * 71, 2),
        ("🎉" * 35, 1),
        ("🎉" * 36, 2),
        ("🎉" * 67, 3),
    ],
)
def test_a_long_text_costs_every_part(client: FlaskClient, message: str, parts: int) -> None:
    (recipient,) = sent(client, "+254711000111", message=message)["Recipients"]
    assert (recipient["messageParts"], recipient["cost"]) == (parts, f"KES {0.8 * parts:.4f}")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (401, "RiskHold"),
        (402, "InvalidSenderId"),
        (403, "InvalidPhoneNumber"),
        (404, "UnsupportedNumberType"),
        (405, "InsufficientBalance"),
        (406, "UserInBlacklist"),
        (407, "CouldNotRoute"),
        (408, "Could Not Send"),
        (409, "DoNotDisturbRejection"),
        (500, "InternalServerError"),
        (501, "GatewayError"),
        (502, "RejectedByGateway"),
    ],
)
def test_the_last_digits_choose_the_refusal_in_every_country(
    client: FlaskClient, code: int, word: str
) -> None:
    numbers = [f"+25471100{code:04d}", f"+2348030000{code:04d}"]
    content = sent(client, *numbers)
    assert content["Message"] == "Sent to 0/2 Total Cost: 0"
    assert content["Recipients"] == [
        {"cost": "0", "messageId": "None", "number": number, "status": word, "statusCode": code}
        for number in numbers
    ]
    assert ledger(client) == []


@pytest.mark.parametrize(
    ("suffix", "is_received", "report"),
    [
        ("0900", False, "status=Failed"),
        ("0901", False, "status=AbsentSubscriber"),
        ("0902", True, None),
        ("0111", True, "status=Success"),
    ],
)
def test_the_last_digits_choose_what_follows_acceptance(
    client: FlaskClient, suffix: str, is_received: bool, report: str | None
) -> None:
    (recipient,) = sent(client, f"+25671100{suffix}")["Recipients"]
    owed = client.get("/_simulator/callbacks").get_json()["items"]
    assert recipient["statusCode"] == 102
    assert bool(ledger(client)) is is_received
    assert [report in callback["body"] for callback in owed if report] == ([True] if report else [])
    assert len(owed) == (1 if report else 0)


def test_a_failed_report_names_its_reason_in_the_recorded_order(client: FlaskClient) -> None:
    (recipient,) = sent(client, "+254711000900")["Recipients"]
    (owed,) = client.get("/_simulator/callbacks").get_json()["items"]
    assert owed["body"] == (
        "phoneNumber=%2B254711000900&failureReason=DeliveryFailure&retryCount=0"
        f"&id={recipient['messageId']}&status=Failed&networkCode=63902"
    )


@pytest.mark.parametrize(
    "number", ["abc", "+0711000111", "0711000111", "+12", "+2547110001112345678", "+254٧11000111"]
)
def test_what_is_no_number_is_refused_alone(client: FlaskClient, number: str) -> None:
    bad, good = sent(client, number, "+254711000111")["Recipients"]
    assert (bad["number"], bad["statusCode"], good["statusCode"]) == (number, 403, 102)


def test_a_number_without_plus_is_taken_and_answered_with_it(client: FlaskClient) -> None:
    assert sent(client, "254711000111")["Recipients"][0]["number"] == "+254711000111"


def test_the_ledger_names_every_text_in_order(client: FlaskClient) -> None:
    sent(client, "+254711000111", "+254711000222", **{"from": "ACME"})
    sent(client, "+254711000111", message="Again")
    first, second, third = ledger(client)
    assert (first["to"], first["text"], first["from"]) == ("+254711000111", "Habari", "ACME")
    assert (third["text"], third["from"]) == ("Again", "AFRICASTKNG")
    assert first["at"].endswith("Z")
    assert ledger(client, "?to=%2B254711000222") == [second]
    assert ledger(client, f"?after={first['id']}&limit=1") == [second]


def test_a_premium_text_costs_the_sender_nothing(client: FlaskClient) -> None:
    content = sent(client, "+254711000111", bulkSMSMode="0", keyword="NEWS", linkId="L1")
    assert (content["Message"], content["Recipients"][0]["cost"]) == ("Sent to 1/1", "0")


def test_the_balance_falls_with_every_accepted_part(client: FlaskClient) -> None:
    assert balance(client) == "KES 1000000.0000"
    sent(client, "+254711000111", "+254711000222", "+254711000406", message="a" * 161)
    assert balance(client) == "KES 999996.8000"


@pytest.mark.parametrize("missing", ["username", "to", "message"])
def test_a_missing_field_is_named_in_plain_text(client: FlaskClient, missing: str) -> None:
    form = {"username": "x", "to": "+254711000111", "message": "a"}
    del form[missing]
    answer = client.post("/version1/messaging", data=form, headers=HEADERS)
    assert (answer.status_code, answer.mimetype) == (400, "text/plain")
    assert answer.text == f"Request is missing required form field '{missing}'"
    assert ledger(client) == []


def test_without_a_key_nothing_is_taken(client: FlaskClient) -> None:
    form = {"username": "x", "to": "+254711000111", "message": "a"}
    answer = client.post("/version1/messaging", data=form)
    assert (answer.status_code, answer.mimetype) == (401, "text/plain")
    assert answer.text == "The supplied authentication is invalid"
    assert ledger(client) == []


def test_a_refused_key_names_the_realm(client: FlaskClient) -> None:
    assert client.get("/version1/user").headers["WWW-Authenticate"] == 'Basic realm="api"'


def test_json_is_not_taken_by_the_classic_endpoint(client: FlaskClient) -> None:
    answer = client.post("/version1/messaging", json={"username": "x"}, headers=HEADERS)
    assert answer.status_code == 415
    assert answer.text == "The request's Content-Type [application/json] is not supported."


def test_nobody_to_send_to_is_a_201_without_recipients(client: FlaskClient) -> None:
    assert sent(client) == {"Message": "InvalidPhoneNumber", "Recipients": []}


def test_a_caller_who_does_not_ask_for_json_gets_xml(client: FlaskClient) -> None:
    form = {"username": "x", "to": "+254711000406", "message": "a"}
    answer = client.post("/version1/messaging", data=form, headers={"apiKey": "k"})
    assert (answer.status_code, answer.mimetype) == (201, "application/xml")
    assert "<AfricasTalkingResponse><SMSMessageData><Message>Sent to 0/1" in answer.text
    assert "<Recipients><Recipient><cost>0</cost><messageId>None</messageId>" in answer.text


def test_the_inbox_comes_a_hundred_at_a_time_by_integer_id(client: FlaskClient) -> None:
    for index in range(103):
        client.post("/_simulator/inbound", json={"from": "+254711000111", "text": f"text {index}"})
    first = fetch(client, 0)
    rest = fetch(client, first[-1]["id"])
    assert (len(first), len(rest), fetch(client, rest[-1]["id"])) == (100, 3, [])
    assert first[0]["text"] == "text 0"
    assert set(first[0]) == {"linkId", "text", "to", "id", "date", "from"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first[0]["date"])


def fetch(client: FlaskClient, last_received_id: int) -> list[dict[str, Any]]:
    url = f"/version1/messaging?username=x&lastReceivedId={last_received_id}"
    messages: list[dict[str, Any]] = client.get(url, headers=HEADERS).get_json()["SMSMessageData"]["Messages"]
    return messages


def test_a_telco_opt_out_blocks_that_sender_only(client: FlaskClient) -> None:
    client.post("/_simulator/opt-out", json={"phoneNumber": "+254711000111", "senderId": "ACME"})
    refused = sent(client, "+254711000111", **{"from": "acme"})["Recipients"][0]
    assert (refused["statusCode"], refused["status"]) == (406, "UserInBlacklist")
    assert sent(client, "+254711000111", **{"from": "20880"})["Recipients"][0]["statusCode"] == 102
    client.post("/_simulator/opt-in", json={"phoneNumber": "+254711000111", "senderId": "ACME"})
    assert sent(client, "+254711000111", **{"from": "ACME"})["Recipients"][0]["statusCode"] == 102


def test_requests_count_posts_and_recipients(client: FlaskClient) -> None:
    send(client, "+254711000111", "+254711000406")
    client.post("/version1/messaging", data={}, headers=HEADERS)
    report = client.get("/_simulator/requests").get_json()
    counted = {name: report[name] for name in ("posts", "recipients", "accepted", "rejected", "received")}
    assert counted == {"posts": 2, "recipients": 2, "accepted": 1, "rejected": 1, "received": 1}
    assert [item["result"] for item in report["items"]] == ["accepted", "unsupported_type"]
    assert sum(second["recipients"] for second in report["per_second"]) == 2
    assert client.get(f"/_simulator/requests?after={report['items'][0]['id']}").get_json()["items"] == [
        report["items"][1]
    ]


def test_a_reset_forgets_everything(client: FlaskClient) -> None:
    client.post("/_simulator/faults", json={"bad_key": {"count": 1, "numbers": ["9"]}})
    client.post("/_simulator/opt-out", json={"phoneNumber": "+254711000111", "senderId": "ACME"})
    client.post("/_simulator/inbound", json={"from": "+254711000111", "text": "hi"})
    send(client, "+254711000111", **{"from": "20880"})
    client.post("/_simulator/reset")
    assert ledger(client) == []
    assert client.get("/_simulator/requests").get_json()["posts"] == 0
    assert client.get("/_simulator/callbacks").get_json()["owed"] == 0
    assert client.get("/_simulator/faults").get_json()["bad_key"] is False
    assert fetch(client, 0) == []
    assert sent(client, "+254711000111", **{"from": "ACME"})["Recipients"][0]["statusCode"] == 102
    assert balance(client) == "KES 999999.2000"
