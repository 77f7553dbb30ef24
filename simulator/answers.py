"""AT's answers, as recorded: 201 for a send, JSON where asked for, XML otherwise."""

import json
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape

from flask import Response, request

from .outcomes import Outcome
from .parts import PRICE_PER_PART, money

NO_ID = "None"
TEXT = "text/plain; charset=UTF-8"


def recipient_entry(
    number: str, outcome: Outcome, message_id: str | None, cost: str, parts: int, code: int
) -> dict[str, Any]:
    """A refused recipient costs ``0`` and carries the id ``None`` (a string) and no parts."""
    if outcome.refusal is not None:
        refused = {"cost": "0", "messageId": NO_ID, "number": number}
        return refused | {"status": outcome.word, "statusCode": outcome.refusal}
    return {
        "cost": cost,
        "messageId": message_id,
        "messageParts": parts,
        "number": number,
        "status": "Success",
        "statusCode": code,
    }


def send_summary(accepted: int, asked: int, parts: int, *, is_premium: bool) -> str:
    summary = f"Sent to {accepted}/{asked}"
    if is_premium:
        return summary
    total = money(PRICE_PER_PART * parts * accepted) if accepted else "0"
    return f"{summary} Total Cost: {total}"


def send_answer(message: str, recipients: list[dict[str, Any]]) -> Response:
    return answer({"SMSMessageData": {"Message": message, "Recipients": recipients}}, status=201)


def balance_answer(balance: Decimal) -> Response:
    return answer({"UserData": {"balance": money(balance)}})


def answer(content: dict[str, Any], status: int = 200) -> Response:
    """AT answers XML to callers that do not ask for JSON."""
    if "application/json" in request.headers.get("Accept", "").lower():
        return Response(json.dumps(content, separators=(",", ":")), status, content_type="application/json")
    xml = f'<?xml version="1.0" encoding="UTF-8"?>{to_xml("AfricasTalkingResponse", content)}'
    return Response(xml, status, content_type="application/xml; charset=UTF-8")


def to_xml(name: str, content: Any) -> str:
    """A list called ``Recipients`` holds elements called ``Recipient``."""
    if isinstance(content, dict):
        inner = "".join(to_xml(key, value) for key, value in content.items())
    elif isinstance(content, list):
        inner = "".join(to_xml(name.removesuffix("s"), value) for value in content)
    else:
        inner = escape("" if content is None else str(content))
    return f"<{name}>{inner}</{name}>"


def text_answer(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return Response(sentence, status, headers, content_type=TEXT)


def authentication_refused() -> Response:
    return text_answer(
        401, "The supplied authentication is invalid", {"WWW-Authenticate": 'Basic realm="api"'}
    )


def unsupported_type(content_type: str) -> Response:
    return text_answer(415, f"The request's Content-Type [{content_type}] is not supported.")


def missing_field(name: str) -> Response:
    return text_answer(400, f"Request is missing required form field '{name}'")


def too_many_requests(retry_after_seconds: float) -> Response:
    return text_answer(429, "Too Many Requests", {"Retry-After": f"{retry_after_seconds:g}"})


def server_error(status: int) -> Response:
    return text_answer(status, "There was an internal server error.")
