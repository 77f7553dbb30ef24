"""The provider's answers as recorded or reported (docs/africastalking.md, 1b and 3): raw bodies in, our words out."""

import json
from decimal import Decimal

import pytest
import responses

from tests.utils.raw_server import wire
from utils.errors import (
    CredentialsRefused,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnreachable,
    SenderRefused,
)
from utils.money import Money
from utils.provider_answers import RecipientAnswer, SendAnswer
from utils.provider_codes import STATUS_CODES
from utils.sms_utils import ProviderClient

URL = "https://api.sandbox.africastalking.com/version1/messaging"
USER_URL = "https://api.sandbox.africastalking.com/version1/user"
ME, SECOND, THIRD = "+254712345678", "+254723456789", "+254734567890"
JSON = "application/json"


def client() -> ProviderClient:
    return ProviderClient("sandbox", "key")


def send(
    body: bytes | str,
    status: int = 201,
    content_type: str = JSON,
    to: list[str] | None = None,
    headers: dict[str, str] | None = None,
) -> SendAnswer:
    with responses.RequestsMock() as provider:
        provider.post(URL, body=body, status=status, content_type=content_type, headers=headers)
        return client().send_texts("Hello", to or [ME], None)


def refusal(
    body: bytes | str, status: int = 201, content_type: str = JSON, headers: dict[str, str] | None = None
) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        send(body, status, content_type, headers=headers)
    return caught.value


KES = Money(Decimal("0.8000"), "KES")

ACCEPTED = [
    (
        "accepted_101.json",
        RecipientAnswer(ME, "accepted", None, 101, "Success", "ATXid_1", KES, "KES 0.8000"),
    ),
    (
        "accepted_sandbox_102.json",
        RecipientAnswer(
            ME,
            "accepted",
            None,
            102,
            "Success",
            "ATXid_7468c9a251f9e9efcc6b2f7ea756a56c",
            KES,
            "KES 0.8000",
        ),
    ),
    (
        "accepted_live_100.json",
        RecipientAnswer(
            ME,
            "accepted",
            None,
            100,
            "Success",
            "ATXid_2",
            Money(Decimal("44.0000"), "TZS"),
            "TZS 44.0000",
            2,
        ),
    ),
    (
        "accepted_premium.json",
        RecipientAnswer(ME, "accepted", None, 102, "Success", "ATXid_3", Money(Decimal(0), None), "0"),
    ),
    (
        "accepted_without_id.json",
        RecipientAnswer(ME, "accepted", None, 101, "Success", None, Money(Decimal(0), None), "0"),
    ),
    (
        "code_as_text.json",
        RecipientAnswer(
            ME, "accepted", None, 101, "Success", "ATXid_5", Money(Decimal("0.8"), None), "0.8", 3
        ),
    ),
    (
        "number_with_spaces.json",
        RecipientAnswer(ME, "accepted", None, 101, "Success", "ATXid_6", KES, "KES 0.8000"),
    ),
]


@pytest.mark.parametrize(("name", "expected"), ACCEPTED, ids=[name for name, _ in ACCEPTED])
def test_an_acceptance_is_read_whole(name: str, expected: RecipientAnswer) -> None:
    answer = send(wire(name))
    assert answer.recipients == {ME: expected}
    assert answer.raw == json.loads(wire(name))
    assert answer.http_status == 201


NOT_TAKEN = [
    ("blacklisted_406.json", "rejected", "opted_out", None, True),
    ("no_balance_405.json", "not_sent", "insufficient_balance", "account", False),
    ("curfew_409.json", "not_sent", "do_not_disturb", None, False),
    ("could_not_send_2016.json", "rejected", "could_not_send", None, False),
]


@pytest.mark.parametrize(
    ("name", "outcome", "reason", "pauses", "suppresses"),
    NOT_TAKEN,
    ids=[case[0] for case in NOT_TAKEN],
)
def test_a_recipient_not_taken_has_a_reason_and_no_id(
    name: str, outcome: str, reason: str, pauses: str | None, suppresses: bool
) -> None:
    found = send(wire(name)).recipients[ME]
    assert (found.outcome, found.reason, found.pauses) == (outcome, reason, pauses)
    assert found.suppresses == suppresses
    assert found.provider_message_id is None


@pytest.mark.parametrize("code", STATUS_CODES)
def test_every_documented_code_has_its_outcome_in_an_answer(code: int) -> None:
    entry = {"statusCode": code, "number": ME, "status": "whatever", "cost": "0", "messageId": "ATXid_1"}
    body = json.dumps({"SMSMessageData": {"Message": "", "Recipients": [entry]}})
    found = send(body).recipients[ME]
    assert (found.outcome, found.reason) == (STATUS_CODES[code].outcome, STATUS_CODES[code].reason)


def test_an_unknown_code_is_unknown_and_kept() -> None:
    found = send(wire("new_code.json")).recipients[ME]
    assert (found.outcome, found.reason) == ("unknown", "unrecognised_status")
    assert (found.status_code, found.status_word) == (777, "HeldForLunch")


def test_answers_in_another_order_are_joined_by_number() -> None:
    answer = send(wire("mixed_other_order.json"), to=[ME, SECOND, THIRD])
    assert list(answer.recipients) == [ME, SECOND, THIRD]
    assert [found.outcome for found in answer.recipients.values()] == ["accepted", "accepted", "rejected"]
    assert answer.recipients[SECOND].cost == Money(Decimal("-14.5731"), "UGX")
    assert answer.missing == []


def test_a_recipient_missing_from_the_answer_is_unknown() -> None:
    answer = send(wire("accepted_101.json"), to=[ME, SECOND])
    assert answer.recipients[SECOND] == RecipientAnswer(SECOND, "unknown", "missing_from_answer")
    assert answer.missing == [SECOND]


@pytest.mark.parametrize("number", ["00254712345678", "254712345678", 254712345678, " +254-712-345678"])
def test_a_number_written_otherwise_is_still_ours(number: object) -> None:
    entry = {"statusCode": 101, "number": number, "status": "Success", "messageId": "ATXid_1"}
    body = json.dumps({"SMSMessageData": {"Message": "", "Recipients": [entry]}})
    assert send(body).recipients[ME].provider_message_id == "ATXid_1"


def test_entries_for_nobody_we_asked_for_are_kept_apart() -> None:
    answer = send(wire("someone_else.json"))
    assert answer.missing == [ME]
    assert len(answer.unrequested) == 3


@pytest.mark.parametrize("order", [(101, 403), (403, 101)])
def test_of_two_entries_for_one_number_the_acceptance_counts(order: tuple[int, int]) -> None:
    entries = [{"statusCode": code, "number": ME, "status": "", "messageId": "ATXid_1"} for code in order]
    body = json.dumps({"SMSMessageData": {"Message": "", "Recipients": entries}})
    assert send(body).recipients[ME].outcome == "accepted"


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "text/plain", "text/html"]
)
def test_the_body_counts_whatever_its_label(content_type: str) -> None:
    assert send(wire("accepted_101.json"), content_type=content_type).recipients[ME].outcome == "accepted"


@pytest.mark.parametrize("status", [200, 201, 202, 409, 500])
def test_a_body_that_names_recipients_settles_them_whatever_the_status(status: int) -> None:
    answer = send(wire("accepted_101.json"), status)
    assert answer.recipients[ME].outcome == "accepted"
    assert answer.http_status == status


REFUSALS = [
    ("invalid_sender.json", 201, SenderRefused, "invalid_sender_id", False, "sender"),
    ("invalid_phone_of_all.json", 201, ProviderRefused, "invalid_phone", False, None),
    ("no_balance_of_all.json", 201, ProviderRefused, "insufficient_balance", False, "account"),
    ("sent_to_none.json", 201, ProviderRefused, "no_recipient_accepted", False, None),
    ("refused_401.txt", 401, CredentialsRefused, "credentials_refused", False, "account"),
    ("missing_field_400.txt", 400, ProviderRefused, "http_400", False, None),
    ("json_415.txt", 415, ProviderRefused, "http_415", False, "account"),
    ("gateway.html", 404, ProviderRefused, "http_404", False, "account"),
    ("gateway.html", 429, ProviderThrottled, "throttled", True, None),
    ("gateway.html", 409, ProviderRefused, "do_not_disturb", True, None),
    ("gateway.html", 307, ProviderRefused, "redirected", False, "account"),
    ("gateway.html", 301, ProviderRefused, "redirected", False, "account"),
]


@pytest.mark.parametrize(
    ("name", "status", "kind", "reason", "retryable", "pauses"),
    REFUSALS,
    ids=[f"{case[0]}-{case[1]}" for case in REFUSALS],
)
def test_a_refusal_of_the_whole_post_says_that_nothing_was_sent(
    name: str, status: int, kind: type[ProviderError], reason: str, retryable: bool, pauses: str | None
) -> None:
    error = refusal(wire(name), status)
    assert type(error) is kind
    assert (error.outcome, error.reason, error.retryable) == ("not_sent", reason, retryable)
    assert (error.http_status, error.pauses) == (status, pauses)
    assert (error.not_sent, error.unknown) == ([ME], [])


UNKNOWNS = [
    ("sent_to_one_unnamed.json", 201, "contradictory_answer"),
    ("risk_hold_of_all.json", 201, "risk_hold"),
    ("without_recipients_key.json", 201, "unreadable_answer"),
    ("other_json.json", 201, "unreadable_answer"),
    ("list.json", 201, "unreadable_answer"),
    ("cut_off.json", 201, "unreadable_answer"),
    ("answer.xml", 201, "unreadable_answer"),
    ("gateway.html", 200, "unreadable_answer"),
    ("gateway.html", 302, "http_302"),
    ("gateway.html", 303, "http_303"),
    ("gateway.html", 408, "http_408"),
    ("gateway.html", 500, "http_500"),
    ("gateway.html", 502, "http_502"),
    ("gateway.html", 503, "http_503"),
    ("invalid_sender.json", 500, "http_500"),
]


@pytest.mark.parametrize(
    ("name", "status", "reason"), UNKNOWNS, ids=[f"{case[0]}-{case[1]}" for case in UNKNOWNS]
)
def test_what_settles_nothing_is_unknown(name: str, status: int, reason: str) -> None:
    error = refusal(wire(name), status)
    assert type(error) is OutcomeUnknown
    assert (error.outcome, error.reason, error.retryable) == ("unknown", reason, False)
    assert (error.http_status, error.not_sent, error.unknown) == (status, [], [ME])


@pytest.mark.parametrize(
    "prose",
    ["Messages sent successfully", "Success", "Queued", "Message accepted", "Sent to 1/1", "Sent to 0.5/1"],
)
def test_prose_of_a_success_that_names_nobody_is_unknown(prose: str) -> None:
    """Certainly not sent would be tried again, and the texts may be on their way."""
    error = refusal(json.dumps({"SMSMessageData": {"Message": prose, "Recipients": []}}))
    assert type(error) is OutcomeUnknown
    assert (error.reason, error.unknown) == ("contradictory_answer", [ME])


@pytest.mark.parametrize("prose", ["Sent to 0/1 Total Cost: 0", "Sent to 0", "Your account is suspended", ""])
def test_prose_of_no_success_that_names_nobody_is_a_refusal(prose: str) -> None:
    error = refusal(json.dumps({"SMSMessageData": {"Message": prose, "Recipients": []}}))
    assert type(error) is ProviderRefused
    assert (error.reason, error.not_sent) == ("no_recipient_accepted", [ME])


@pytest.mark.parametrize("body", [b"", b"[" * 200_000, b"\xff\xfe\x00", b"null", b'{"SMSMessageData": [1]}'])
def test_a_body_that_no_parser_takes_is_unknown(body: bytes) -> None:
    assert refusal(body).reason == "unreadable_answer"


def test_a_refusal_carries_the_providers_answer_and_prose() -> None:
    assert refusal(wire("invalid_sender.json")).response == json.loads(wire("invalid_sender.json"))
    error = refusal(wire("missing_field_400.txt"), 400, "text/plain")
    assert error.response is None
    assert "missing required form field 'to'" in error.message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("999999999", 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("-1", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str, seconds: float | None) -> None:
    error = refusal("slow down", 429, "text/plain", {"Retry-After": value})
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("name", "balance"),
    [
        ("balance.json", Money(Decimal("999999589.6168"), "USD")),
        ("balance_documented.json", Money(Decimal("1.0000"), "KES")),
        ("balance_negative.json", Money(Decimal("-14.5731"), "UGX")),
    ],
)
def test_the_balance_is_money(name: str, balance: Money) -> None:
    with responses.RequestsMock() as provider:
        asked = provider.get(USER_URL, body=wire(name), content_type=JSON)
        assert client().fetch_balance() == balance
        assert asked.calls[0].request.params == {"username": "sandbox"}


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("refused_401.txt", 401, CredentialsRefused),
        ("gateway.html", 503, ProviderUnreachable),
        ("gateway.html", 200, ProviderUnreachable),
        ("other_json.json", 200, ProviderUnreachable),
    ],
)
def test_a_question_that_fails_has_sent_nothing(name: str, status: int, kind: type[ProviderError]) -> None:
    with responses.RequestsMock() as provider:
        provider.get(USER_URL, body=wire(name), status=status)
        with pytest.raises(ProviderError) as caught:
            client().fetch_balance()
    assert type(caught.value) is kind
    assert caught.value.outcome == "not_sent"


def test_the_inbox_is_read_from_the_last_id_on() -> None:
    with responses.RequestsMock() as provider:
        asked = provider.get(URL, body=wire("inbox.json"))
        [message] = client().fetch_inbox(15070)
        assert asked.calls[0].request.params == {"username": "sandbox", "lastReceivedId": "15070"}
    assert (message["id"], message["from"], message["text"]) == (15071, ME, "Hello")


def test_an_empty_inbox_is_an_empty_list() -> None:
    with responses.RequestsMock() as provider:
        provider.get(URL, body=wire("inbox_empty.json"))
        assert client().fetch_inbox() == []


def test_no_value_of_an_answer_is_longer_than_a_store_takes() -> None:
    """A messageId of 20,000 characters cost the record of its whole POST on PostgreSQL."""
    long = "x" * 20_000
    entry = {
        "number": ME,
        "statusCode": 101,
        "status": long,
        "messageId": long,
        "cost": f"KES {'9' * 20_000}",
        "messageParts": 10**30,
    }
    answer = send(json.dumps({"SMSMessageData": {"Message": long, "Recipients": [entry]}}))
    found = answer.recipients[ME]
    assert (found.outcome, found.provider_message_id, found.cost, found.parts) == (
        "accepted",
        None,
        None,
        None,
    )
    assert found.status_word is not None
    assert found.cost_raw is not None
    assert max(map(len, (found.status_word, found.cost_raw))) <= 200
    assert len(answer.message) <= 2000


def test_a_status_code_beyond_all_bounds_is_no_code() -> None:
    entry = {"number": ME, "statusCode": 10**40, "status": "Success", "messageId": "ATXid_1", "cost": "0"}
    answer = send(json.dumps({"SMSMessageData": {"Message": "Sent", "Recipients": [entry]}}))
    assert answer.recipients[ME].status_code is None
