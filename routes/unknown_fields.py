"""A field or a query parameter that is not known, told with the one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel

LONGEST_SHOWN = 64
# What people and other providers call our fields.
_ALSO_CALLED: Mapping[str, tuple[str, ...]] = {
    "text": ("message", "msg", "body", "content", "sms"),
    "message": ("text", "msg", "body", "content", "sms"),
    "to": ("phone", "phones", "phone_number", "phonenumbers", "recipient", "recipients", "number", "numbers"),
    "phone": ("to", "phones", "phone_number", "recipient", "recipients", "number", "numbers", "msisdn"),
    "sender_id": ("from", "sender", "senderid", "shortcode"),
    "send_at": ("schedule", "scheduled_at", "schedule_at", "time", "date"),
    "expires_at": ("expiry", "validity", "ttl", "valid_until"),
    "q": ("search", "query"),
    "since": ("from", "start", "after"),
    "until": ("end", "before"),
}


def likely(name: str, known: Sequence[str]) -> str | None:
    """Which of `known` was probably meant."""
    folded = name[:LONGEST_SHOWN].lower().replace("-", "_").strip("_ ")
    called = next((one for one in known if folded in _ALSO_CALLED.get(one, ())), None)
    return called or next(iter(difflib.get_close_matches(folded, known, n=1)), None)


def explain_unknown(name: str, known: Sequence[str]) -> str:
    shown = name[:LONGEST_SHOWN]
    meant = likely(name, known)
    if meant is not None:
        return f"`{shown}` is not known here: did you mean `{meant}`?"
    return f"`{shown}` is not known here" + (f", only {', '.join(known)}" if known else "")


def fields_of(model_name: str) -> list[str]:
    """Of the model that an error of Pydantic's names: the error itself does not hold it."""
    found = next((model for model in _models(BaseModel) if model.__name__ == model_name), None)
    return [] if found is None else [field.alias or name for name, field in found.model_fields.items()]


def _models(base: type[BaseModel]) -> Iterable[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)
