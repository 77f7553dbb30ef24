"""Africa's Talking as a test key meets it: requests are answered here, in the process, and no connection is made.

It is an adapter for `requests`, so the form, the headers, the answer and its reading are those of a real POST
(utils.sms_utils, utils.provider_transport). The last four digits of a number choose what becomes of a text to it:

| last digits          | outcome                                                    |
|----------------------|------------------------------------------------------------|
| 0401-0409, 0500-0502 | refused with that per-recipient status code                |
| 0900                 | accepted, then the report `Failed` (`DeliveryFailure`)     |
| 0901                 | accepted, then the report `AbsentSubscriber`               |
| 0902                 | accepted, no report ever                                   |
| 0903                 | accepted and reported, but the POST ends as if timed out   |
| any other            | accepted, then the report `Success`                        |

The same table as the simulator's (simulator/outcomes.py), which imports nothing of ours; a test compares the two.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.response import HTTPResponse

from utils.segments import measure

PRICE_PER_PART = Decimal("0.8000")
BALANCE = "KES 1000000.0000"
NETWORK = "99999"
NO_ID = "None"
NEEDED = ("username", "to", "message")
RETRY_AFTER_SECONDS = "1"
REFUSALS = {
    401: "RiskHold",
    402: "InvalidSenderId",
    403: "InvalidPhoneNumber",
    404: "UnsupportedNumberType",
    405: "InsufficientBalance",
    406: "UserInBlacklist",
    407: "CouldNotRoute",
    408: "Could Not Send",
    409: "DoNotDisturbRejection",
    500: "InternalServerError",
    501: "GatewayError",
    502: "RejectedByGateway",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`refusal`: AT's status code for the recipient, None where the text is accepted."""

    refusal: int | None = None
    report: str | None = "Success"
    failure_reason: str | None = None
    hangs: bool = False


DELIVERED = Outcome()
BY_LAST_DIGITS = {f"{code:04d}": Outcome(code, None) for code in REFUSALS} | {
    "0900": Outcome(report="Failed", failure_reason="DeliveryFailure"),
    "0901": Outcome(report="AbsentSubscriber"),
    "0902": Outcome(report=None),
    "0903": Outcome(hangs=True),
}


class CannotKeep(Exception):
    """The reports that a POST would cause cannot be kept."""


# Takes the bodies of delivery reports, as AT would post them; they are durable when it returns. Raises CannotKeep.
KeepReports = Callable[[Sequence[bytes]], None]


def outcome_of(number: str) -> Outcome:
    return BY_LAST_DIGITS.get(number[-4:], DELIVERED)


class ProviderStandIn(BaseAdapter):
    """`keep_reports` is called before the answer: a process that is killed in between leaves no text unreported."""

    def __init__(self, keep_reports: KeepReports) -> None:
        super().__init__()
        self._keep_reports = keep_reports

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 (as requests calls it)
        timeout: object = None,  # noqa: ARG002
        verify: object = True,  # noqa: ARG002
        cert: object = None,  # noqa: ARG002
        proxies: object = None,  # noqa: ARG002
    ) -> requests.Response:
        call = request.method, urlsplit(request.url or "").path
        if call == ("POST", "/version1/messaging"):
            return self._take(request)
        if call == ("GET", "/version1/user"):
            return _json(request, 200, {"UserData": {"balance": BALANCE}})
        if call == ("GET", "/version1/messaging"):
            return _json(request, 200, {"SMSMessageData": {"Messages": []}})
        return _text(request, 404, "The requested resource could not be found.")

    def close(self) -> None:
        """There is nothing to close."""

    def _take(self, request: requests.PreparedRequest) -> requests.Response:
        form = dict(parse_qsl(_body_of(request), keep_blank_values=True))
        missing = next((name for name in NEEDED if name not in form), None)
        if missing is not None:
            return _text(request, 400, f"Request is missing required form field '{missing}'")
        numbers = [number for number in form["to"].split(",") if number]
        entries = _entries(numbers, measure(form["message"]).parts)
        try:
            self._keep_reports([report for entry in entries for report in _reports(entry)])
        except CannotKeep:
            return _text(request, 429, "Too Many Requests", {"Retry-After": RETRY_AFTER_SECONDS})
        if any(outcome_of(number).hangs for number in numbers):
            raise requests.ReadTimeout(request=request)
        return _json(request, 201, {"SMSMessageData": {"Message": _summary(entries), "Recipients": entries}})


def _body_of(request: requests.PreparedRequest) -> str:
    body = request.body
    return body.decode() if isinstance(body, bytes) else str(body or "")


def _entries(numbers: Sequence[str], parts: int) -> list[dict[str, Any]]:
    ids = secrets.token_hex(16 * len(numbers))
    return [
        _entry(number, f"ATXid_{ids[32 * place : 32 * place + 32]}", parts)
        for place, number in enumerate(numbers)
    ]


def _entry(number: str, message_id: str, parts: int) -> dict[str, Any]:
    refusal = outcome_of(number).refusal
    if refusal is not None:
        refused = {"cost": "0", "messageId": NO_ID, "number": number}
        return refused | {"status": REFUSALS[refusal], "statusCode": refusal}
    return {
        "cost": f"KES {PRICE_PER_PART * parts:.4f}",
        "messageId": message_id,
        "messageParts": parts,
        "number": number,
        "status": "Success",
        "statusCode": 102,
    }


def _reports(entry: Mapping[str, Any]) -> Iterator[bytes]:
    """The fields in the order of a recorded report."""
    outcome = outcome_of(entry["number"])
    if outcome.report is None:
        return
    fields = {"phoneNumber": entry["number"]}
    if outcome.failure_reason:
        fields["failureReason"] = outcome.failure_reason
    fields |= {"retryCount": "0", "id": entry["messageId"], "status": outcome.report, "networkCode": NETWORK}
    yield urlencode(fields).encode()


def _summary(entries: Sequence[Mapping[str, Any]]) -> str:
    parts = [entry["messageParts"] for entry in entries if entry["messageId"] != NO_ID]
    total = f"KES {PRICE_PER_PART * sum(parts):.4f}" if parts else "0"
    return f"Sent to {len(parts)}/{len(entries)} Total Cost: {total}"


def _json(request: requests.PreparedRequest, status: int, content: Mapping[str, Any]) -> requests.Response:
    body = json.dumps(content, separators=(",", ":")).encode()
    return _answer(request, status, body, {"Content-Type": "application/json"})


def _text(
    request: requests.PreparedRequest, status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> requests.Response:
    kind = {"Content-Type": "text/plain; charset=UTF-8"}
    return _answer(request, status, sentence.encode(), {**kind, **(headers or {})})


def _answer(
    request: requests.PreparedRequest, status: int, body: bytes, headers: Mapping[str, str]
) -> requests.Response:
    answer = requests.Response()
    answer.status_code = status
    answer.headers = CaseInsensitiveDict(headers)
    answer.raw = HTTPResponse(BytesIO(body), dict(headers), status, preload_content=False)
    answer.url, answer.request = request.url or "", request
    return answer
