"""What a GET trigger asks for, read from its query, and the sentence it is answered with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Request

from messaging.messages.accept import validate_text
from messaging.sending.triggers import TriggerResult
from routes.unknown_fields import explain_unknown, likely
from utils.errors import InvalidInput, InvalidPhone
from utils.phone_numbers import PhoneNumber, read_query_phone

PARAMETERS = ("phone", "message", "api_key", "idempotency_key")
DEFAULT_MESSAGE = "Hello from Africa's Talking!"


@dataclass(frozen=True, slots=True)
class TriggerRequest:
    phones: list[PhoneNumber]
    message: str
    idempotency_key: str | None

    @property
    def recipients(self) -> list[str]:
        return [phone.e164 for phone in self.phones]


def read_trigger(request: Request, default_region: str | None) -> TriggerRequest:
    """Raises InvalidInput (missing_phone), InvalidPhone, EmptyMessage."""
    _refuse_misspelt(request)
    key = request.headers.get("Idempotency-Key") or request.args.get("idempotency_key")
    phones = _read_phones(request.args.getlist("phone"), default_region)
    return TriggerRequest(phones, _read_message(request), key)


def answer_trigger(asked: TriggerRequest, result: TriggerResult) -> dict[str, Any]:
    answer: dict[str, Any] = {"message": _sentence(asked, result), "response": result.response}
    if result.blocked:
        answer["opted_out"] = result.blocked
    if result.no_consent:
        answer["no_consent"] = result.no_consent
    warnings = [{"phone": one.e164, "message": one.warning} for one in asked.phones if one.warning]
    if warnings:
        answer["warnings"] = warnings
    return answer


def _sentence(asked: TriggerRequest, result: TriggerResult) -> str:
    accepted, wanted = len(result.accepted), len(asked.phones)
    if wanted == 1:
        return f"SMS sent to {asked.recipients[0]}"
    return (
        f"SMS sent to {accepted} recipients"
        if accepted == wanted
        else f"SMS sent to {accepted} of {wanted} recipients"
    )


def _refuse_misspelt(request: Request) -> None:
    """`?text=…` would text the default message. What resembles none of ours (`_=123` of a browser) is let be."""
    for name in request.args:
        if name not in PARAMETERS and likely(name, PARAMETERS):
            raise InvalidInput(explain_unknown(name, PARAMETERS), code="unknown_parameter", field=name[:64])


def _read_phones(values: list[str], default_region: str | None) -> list[PhoneNumber]:
    """Repeated or comma-separated; each number once."""
    entries = [entry for value in values for entry in value.split(",") if entry.strip()]
    if not entries:
        raise InvalidInput("Missing 'phone' query parameter", code="missing_phone", field="phone")
    phones = [_read_phone(entry, default_region) for entry in entries]
    return list({phone.e164: phone for phone in phones}.values())


def _read_phone(entry: str, default_region: str | None) -> PhoneNumber:
    try:
        return read_query_phone(entry, default_region)
    except InvalidPhone as error:
        sentence = f"{entry.strip()!r} is not a usable phone number: {error.message}"
        raise InvalidPhone(sentence, field="phone", details={"phone": entry.strip()}) from None


def _read_message(request: Request) -> str:
    message = request.args.get("message", DEFAULT_MESSAGE).strip()
    validate_text(message, field="message")
    return message
