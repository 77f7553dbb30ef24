"""The last four digits of a number choose what becomes of a text to it, in every country.

| last digits       | outcome                                                                       |
|-------------------|-------------------------------------------------------------------------------|
| 0401-0409, 0500-0502 | refused with that per-recipient status code; the phone gets nothing        |
| 0900              | accepted, then the report ``Failed`` (``DeliveryFailure``); the phone gets nothing |
| 0901              | accepted, then the report ``AbsentSubscriber``; the phone gets nothing        |
| 0902              | accepted and received, no report ever                                         |
| 0903              | accepted, received and reported, but the sender's connection hangs unanswered |
| any other         | accepted, received, one report ``Success``                                    |

AT documents no 408; here it carries ``Could Not Send``, a word seen in an old recorded answer without a code.
"""

import re
from dataclasses import dataclass

REFUSAL_WORDS = {
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

# Networks by calling code (AT's documented codes); AT's sandbox reports 99999 for all else.
NETWORK_CODES = {
    "+254": "63902",
    "+234": "62130",
    "+255": "64004",
    "+256": "64110",
    "+250": "63510",
    "+265": "65010",
    "+233": "62001",
    "+251": "63601",
    "+260": "64502",
}
SANDBOX_NETWORK = "99999"

E164 = re.compile(r"\+?([1-9][0-9]{6,14})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``refusal`` is AT's per-recipient status code, None when the text is accepted."""

    refusal: int | None = None
    is_received: bool = True
    report: str | None = "Success"
    failure_reason: str | None = None
    hangs: bool = False

    @property
    def is_accepted(self) -> bool:
        return self.refusal is None

    @property
    def word(self) -> str:
        return "Success" if self.refusal is None else REFUSAL_WORDS[self.refusal]


DELIVERED = Outcome()
REFUSED = {code: Outcome(refusal=code, is_received=False, report=None) for code in REFUSAL_WORDS}
INVALID_NUMBER, INSUFFICIENT_BALANCE, BLACKLISTED = REFUSED[403], REFUSED[405], REFUSED[406]

BY_LAST_DIGITS = {f"{code:04d}": outcome for code, outcome in REFUSED.items()} | {
    "0900": Outcome(is_received=False, report="Failed", failure_reason="DeliveryFailure"),
    "0901": Outcome(is_received=False, report="AbsentSubscriber"),
    "0902": Outcome(report=None),
    "0903": Outcome(hangs=True),
}


def outcome_of(number: str) -> Outcome:
    return BY_LAST_DIGITS.get(number[-4:], DELIVERED)


def normalise(number: str) -> str | None:
    """``+`` and digits, or None for what no network could route."""
    match = E164.fullmatch(number.strip())
    return f"+{match[1]}" if match else None


def network_of(number: str) -> str:
    return NETWORK_CODES.get(number[:4], SANDBOX_NETWORK)
