"""What AT's reply to a send means, recipient by recipient, or as a refusal of the whole POST.

The facts: docs/africastalking.md, 1b and 3.

A body that names recipients settles their fate whatever the HTTP status: AT documents its curfew both as HTTP
409 and as a code inside a normal body. Without recipients the status decides, and for 2xx AT's prose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from utils import reasons
from utils.errors import (
    CredentialsRefused,
    OutcomeUnknown,
    Pause,
    ProviderError,
    ProviderRefused,
    ProviderThrottled,
    SenderRefused,
)
from utils.money import Money, parse_money
from utils.provider_codes import STATUS_WORDS, RecipientOutcome, find_status
from utils.texts import as_text

if TYPE_CHECKING:
    # It brings `requests`, a tenth of a command's time.
    from utils.provider_transport import Reply

MISSING: Final = "missing_from_answer"
# Prose that speaks of a success settles nothing while nobody is named, but where it names the sum of none.
_SPEAKS_OF_SUCCESS = re.compile(
    r"\b(sent|success\w*|accepted|queued|processed|submitted|scheduled|delivered)\b", re.IGNORECASE
)
_SENT_TO_NONE = re.compile(r"\s*Sent to 0+(?![\d.,])", re.IGNORECASE)
_MOST_PARTS = 255
_LARGEST_NUMBER = 999_999_999
# Beyond anything that AT was seen to write, and within what every store and index takes.
LONGEST_ID = 200
LONGEST_WORD = 200
LONGEST_PROSE = 2000
_NOT_DIGITS = re.compile(r"[^0-9]")
# The responder says that the request belongs elsewhere. 302 and 303 are also how a server answers a form
# that it has processed, so they settle nothing.
_MOVED = frozenset({301, 307, 308})
_TIMED_OUT_AT_PROVIDER = 408
_WRONG_PLACE = frozenset({403, 404, 405, 407, 410, 415, 451})
_WEIGHT: Final[dict[RecipientOutcome, int]] = {"not_sent": 0, "rejected": 1, "unknown": 2, "accepted": 3}

Raw = dict[str, Any]


class RecipientAnswer(NamedTuple):
    """What AT said of one recipient. `number` is ours, in E.164; `cost_raw`, `status_word` are AT's strings."""

    number: str
    outcome: RecipientOutcome
    reason: str | None = None
    status_code: int | None = None
    status_word: str | None = None
    provider_message_id: str | None = None
    cost: Money | None = None
    cost_raw: str | None = None
    parts: int | None = None
    pauses: Pause | None = None
    suppresses: bool = False


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """`recipients`: one entry for every number asked for, in that order. `unrequested`: AT's other entries."""

    raw: Raw
    http_status: int
    message: str
    recipients: dict[str, RecipientAnswer]
    unrequested: list[Any]

    @property
    def missing(self) -> list[str]:
        return [number for number, found in self.recipients.items() if found.reason == MISSING]


def read_send_answer(reply: Reply, requested: Sequence[str]) -> SendAnswer:
    """Raises a ProviderError where the reply names no recipients; it carries the reply and whom it concerns."""
    raw = _parse(reply.body)
    entries = _content(raw).get("Recipients")
    if not raw or not isinstance(entries, list) or not entries:
        error = explain_refusal(reply, raw)
        error.concerns(requested)
        raise error
    recipients, unrequested = _join(entries, requested)
    return SendAnswer(raw, reply.status, _prose(raw), recipients, unrequested)


def read_json(reply: Reply) -> Raw:
    """The JSON object of a reply to a GET. Raises a ProviderError for any other."""
    raw = _parse(reply.body)
    if raw is None or not 200 <= reply.status < 300:
        raise explain_refusal(reply, raw)
    return raw


def explain_refusal(reply: Reply, raw: Raw | None) -> ProviderError:
    """The error for a reply that settles no recipient by name."""
    error = _explain_prose(reply, raw) if 200 <= reply.status < 300 else _explain_status(reply)
    error.response = raw
    error.http_status = reply.status
    return error


def _explain_status(reply: Reply) -> ProviderError:
    status = reply.status
    if status == 401:
        return CredentialsRefused(reason="credentials_refused")
    if status == 429:
        return ProviderThrottled(reason="throttled", retry_after=reply.retry_after)
    if status == 409:
        return ProviderRefused(reason=reasons.DO_NOT_DISTURB, retryable=True, retry_after=reply.retry_after)
    if status in _MOVED:
        return ProviderRefused(
            "The provider's address redirects elsewhere: set AT_BASE_URL to the final one",
            reason="redirected",
            pauses="account",
        )
    if 400 <= status < 500 and status != _TIMED_OUT_AT_PROVIDER:
        sentence = (
            f"Africa's Talking refused the request with HTTP {status}: {reply.prose or 'no reason given'}"
        )
        return ProviderRefused(sentence, reason=f"http_{status}", pauses=_pause_of(status))
    return OutcomeUnknown(reason=f"http_{status}", retry_after=reply.retry_after)


def _pause_of(status: int) -> Pause | None:
    """These speak of the address or the account, not of the text: another POST would fare no better."""
    return "account" if status in _WRONG_PLACE else None


def _explain_prose(reply: Reply, raw: Raw | None) -> ProviderError:
    prose = _prose(raw)
    status = STATUS_WORDS.get(prose.strip().casefold())
    if status is not None and status.outcome in {"rejected", "not_sent"}:
        refusal = SenderRefused if status.pauses == "sender" else ProviderRefused
        sentence = f"Africa's Talking refused the request: {status.description}"
        return refusal(
            sentence, reason=status.reason or "refused", pauses=status.pauses, retryable=status.reschedules
        )
    if not isinstance(_content(raw).get("Recipients"), list):
        return OutcomeUnknown(reason="unreadable_answer", details={"body": reply.prose})
    if status is not None or (_SPEAKS_OF_SUCCESS.search(prose) and not _SENT_TO_NONE.match(prose)):
        reason = status.reason if status is not None else None
        return OutcomeUnknown(reason=reason or "contradictory_answer", details={"message": prose})
    sentence = f"Africa's Talking took no recipient and said: {prose[:200] or 'nothing'}"
    return ProviderRefused(sentence, reason="no_recipient_accepted")


def _join(entries: Iterable[Any], requested: Sequence[str]) -> tuple[dict[str, RecipientAnswer], list[Any]]:
    # By number, not by place: AT promises no order. Should it name one number twice, the worse for a resend
    # counts: a text may be on its way.
    answers = {number: RecipientAnswer(number, "unknown", MISSING) for number in requested}
    by_digits: dict[str, str] = {}
    unrequested = []
    for entry in entries:
        number = entry.get("number") if isinstance(entry, dict) else None
        if not isinstance(number, str) or number not in answers:
            by_digits = by_digits or {_digits(one): one for one in requested}
            number = by_digits.get(_digits(number))
        if number is None:
            unrequested.append(entry)
            continue
        answer = _read_recipient(number, entry)
        earlier = answers[number]
        if earlier.reason == MISSING or _WEIGHT[answer.outcome] > _WEIGHT[earlier.outcome]:
            answers[number] = answer
    return answers, unrequested


def _read_recipient(number: str, entry: Raw) -> RecipientAnswer:
    code, word = entry.get("statusCode"), entry.get("status")
    status = find_status(code, word)
    cost = _text(entry.get("cost"))
    return RecipientAnswer(
        number,
        status.outcome,
        status.reason,
        _whole(code),
        _text(word),
        _identifier(entry.get("messageId")),
        parse_money(cost) if cost else None,
        cost,
        _parts(entry.get("messageParts")),
        status.pauses,
        status.suppresses,
    )


def _identifier(value: object) -> str | None:
    """None for what cannot be one. Cut, it would name another message, and no report would ever carry it."""
    # AT writes the word None where there is no id.
    text = as_text(value.strip()) if isinstance(value, str) else ""
    return None if text.casefold() in {"", "none", "null"} or len(text) > LONGEST_ID else text


def _text(value: object, longest: int = LONGEST_WORD) -> str | None:
    return None if value is None else as_text((value if isinstance(value, str) else str(value))[:longest])


def _parts(value: object) -> int | None:
    parts = _whole(value)
    return parts if parts is not None and 0 <= parts <= _MOST_PARTS else None


def _whole(value: object) -> int | None:
    if type(value) is int:
        return value if abs(value) <= _LARGEST_NUMBER else None
    is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
    return int(value) if is_number else None  # type: ignore[call-overload]


def _digits(value: object) -> str:
    """A number's digits, for AT may drop the plus or write spaces."""
    return _NOT_DIGITS.sub("", str(value)).lstrip("0") if isinstance(value, str | int) else ""


def _parse(body: bytes) -> Raw | None:
    # By content, not by type: a JSON body under a wrong label still says whom AT accepted.
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None


def _content(raw: Raw | None) -> Raw:
    found = (raw or {}).get("SMSMessageData")
    return found if isinstance(found, dict) else {}


def _prose(raw: Raw | None) -> str:
    return _text(_content(raw).get("Message"), LONGEST_PROSE) or ""
