"""Africa's Talking's words in ours: tables to read, with a remark where one surprises.

AT's names and codes are open sets (docs/africastalking.md, 3 and 4): whatever is not in a table is stored as it
came and its outcome is unknown, never refused. Names compare without regard to case, because AT itself spells
`UserInBlacklist` in an answer and `UserInBlackList` in a report.
"""

from dataclasses import dataclass
from typing import Final, Literal

from utils import reasons
from utils.errors import Pause
from utils.reasons import Explained, explain

RecipientOutcome = Literal["accepted", "rejected", "not_sent", "unknown"]
ReportedStatus = Literal["accepted", "delivered", "failed", "expired"]


@dataclass(frozen=True, slots=True)
class StatusCode:
    """What AT says of one recipient in the answer to a POST.

    `reason`: our word. `pauses`: what must rest; the recipient is not to blame. `suppresses`: evidence of an
    opt-out for the sender id used. `reschedules`: to be tried again when the sending window opens.
    """

    name: str
    outcome: RecipientOutcome
    reason: str | None
    pauses: Pause | None = None
    suppresses: bool = False
    reschedules: bool = False

    @property
    def description(self) -> str:
        return self._explained.explanation

    @property
    def remedy(self) -> str | None:
        return self._explained.remedy

    @property
    def _explained(self) -> Explained:
        return explain(self.reason or self.name.casefold()) or Explained(self.name)


STATUS_CODES: Final[dict[int, StatusCode]] = {
    # All three come with the word "Success": accepted by AT, not delivered. 100 is seen live, 101 where
    # `enqueue` was absent, 102 with it.
    100: StatusCode("Processed", "accepted", None),
    101: StatusCode("Success", "accepted", None),
    102: StatusCode("Queued", "accepted", None),
    # Held, not refused: AT may still let it out, so a resend could be the second copy.
    401: StatusCode("RiskHold", "unknown", "risk_hold"),
    402: StatusCode("InvalidSenderId", "not_sent", "invalid_sender_id", pauses="sender"),
    403: StatusCode("InvalidPhoneNumber", "rejected", "invalid_phone"),
    404: StatusCode("UnsupportedNumberType", "rejected", "unsupported_number_type"),
    405: StatusCode("InsufficientBalance", "not_sent", "insufficient_balance", pauses="account"),
    # Also hits numbers whose owners opted out of every promotional sender, not of this one (docs/africastalking.md, 5).
    406: StatusCode("UserInBlackList", "rejected", reasons.OPTED_OUT, suppresses=True),
    407: StatusCode("CouldNotRoute", "rejected", "no_route"),
    # Nigeria, promotional senders, 20:00-08:00 in Lagos.
    409: StatusCode("DoNotDisturbRejection", "not_sent", reasons.DO_NOT_DISTURB, reschedules=True),
    # Whether 500 and 501 went out, or are billed, is not established: never resent blindly.
    500: StatusCode("InternalServerError", "unknown", "provider_error"),
    501: StatusCode("GatewayError", "unknown", "gateway_error"),
    502: StatusCode("RejectedByGateway", "rejected", "rejected_by_gateway"),
}
UNRECOGNISED: Final = StatusCode("Unrecognised", "unknown", "unrecognised_status")
# Words that come without a code: old answers per recipient, and `Message` where `Recipients` is empty.
STATUS_WORDS: Final[dict[str, StatusCode]] = {
    **{entry.name.casefold(): entry for entry in STATUS_CODES.values()},
    "sent": STATUS_CODES[101],
    "could not send": StatusCode("Could Not Send", "rejected", "could_not_send"),
}

REPORT_STATUSES: Final[dict[str, ReportedStatus]] = {
    "success": "delivered",
    "sent": "accepted",
    "submitted": "accepted",
    "buffered": "accepted",
    "failed": "failed",
    "rejected": "failed",
    # AT does not call these two final: a later Success overrules them.
    "absentsubscriber": "failed",
    "expired": "expired",
}
REPORT_REASONS: Final = {
    "rejected": "rejected_by_network",
    "failed": "delivery_failed",
    "absentsubscriber": "absent_subscriber",
    "expired": "expired_at_network",
}


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why a report says Failed or Rejected. `is_opt_out`: evidence of an opt-out for the sender id used."""

    name: str
    reason: str
    is_opt_out: bool = False


# AT's spelling; its SDKs write NotNetworkSubscriber.
_NOT_ON_NETWORK = FailureReason("NotNetworkSubcriber", "not_network_subscriber")
_REASONS: Final = (
    FailureReason("InsufficientCredit", "insufficient_credit"),
    FailureReason("InvalidLinkId", "invalid_link_id"),
    FailureReason("UserIsInactive", "inactive_user"),
    FailureReason("UserInBlackList", reasons.OPTED_OUT, is_opt_out=True),
    FailureReason("UserAccountSuspended", "suspended_user"),
    _NOT_ON_NETWORK,
    FailureReason("UserNotSubscribedToProduct", "not_subscribed"),
    FailureReason("UserDoesNotExist", "unknown_number"),
    FailureReason("DeliveryFailure", "delivery_failed"),
    FailureReason("DoNotDisturbRejection", reasons.DO_NOT_DISTURB),
)
FAILURE_REASONS: Final[dict[str, FailureReason]] = {
    **{entry.name.casefold(): entry for entry in _REASONS},
    "notnetworksubscriber": _NOT_ON_NETWORK,
}


@dataclass(frozen=True, slots=True)
class Network:
    name: str
    country: str


NETWORK_CODES: Final[dict[str, Network]] = {
    # From AT's documents.
    "62120": Network("Airtel", "NG"),
    "62130": Network("MTN", "NG"),
    "62150": Network("Glo", "NG"),
    "62160": Network("Etisalat", "NG"),
    "63510": Network("MTN", "RW"),
    "63513": Network("Tigo", "RW"),
    "63514": Network("Airtel", "RW"),
    "63902": Network("Safaricom", "KE"),
    "63903": Network("Airtel", "KE"),
    "63907": Network("Telkom", "KE"),
    "63999": Network("Equitel", "KE"),
    "64002": Network("Tigo", "TZ"),
    "64003": Network("Zantel", "TZ"),
    "64004": Network("Vodacom", "TZ"),
    "64005": Network("Airtel", "TZ"),
    "64007": Network("TTCL", "TZ"),
    "64009": Network("Halotel", "TZ"),
    "64101": Network("Airtel", "UG"),
    "64110": Network("MTN", "UG"),
    "64111": Network("UTL", "UG"),
    "64114": Network("Africell", "UG"),
    "65001": Network("TNM", "MW"),
    "65010": Network("Airtel", "MW"),
    # From a third party's list, not AT's.
    "62001": Network("MTN", "GH"),
    "62002": Network("Vodafone", "GH"),
    "62006": Network("AirtelTigo", "GH"),
    "63601": Network("Ethio Telecom", "ET"),
    "64501": Network("Airtel", "ZM"),
    "64502": Network("MTN", "ZM"),
    "65501": Network("Vodacom", "ZA"),
    "65502": Network("Telkom", "ZA"),
    "65507": Network("Cell C", "ZA"),
    "65510": Network("MTN", "ZA"),
    # The sandbox's own network; one real sandbox report carried 63902 instead.
    "99999": Network("Athena (sandbox)", ""),
}


# Reasons with which a text waits for an hour of the day instead of a backoff.
RESCHEDULED: Final = frozenset(entry.reason for entry in STATUS_CODES.values() if entry.reschedules)


def find_status(code: object, word: object) -> StatusCode:
    """The entry for one recipient: by code where it is known, else by word, else UNRECOGNISED."""
    entry = STATUS_CODES.get(code) if type(code) is int else _find_by_text(code)
    if entry is None and isinstance(word, str):
        entry = STATUS_WORDS.get(word.strip().casefold())
    return entry or UNRECOGNISED


def describe_status(code: int | str) -> str:
    """One or two plain sentences for a status code (`405`, `"405"`) or word; for an unknown one too."""
    entry = find_status(code, code)
    if entry is UNRECOGNISED:
        return f"{code}: {entry.description}. {entry.remedy}."
    remedy = f" {entry.remedy}." if entry.remedy else ""
    return f"{entry.name}: {entry.description}.{remedy}"


def read_report_status(word: str) -> ReportedStatus | None:
    """Our status for a report's word; None for one AT does not document. `accepted` changes nothing."""
    return REPORT_STATUSES.get(word.strip().casefold())


def find_failure(word: str) -> FailureReason | None:
    return FAILURE_REASONS.get(word.strip().casefold())


def find_network(code: str) -> Network | None:
    return NETWORK_CODES.get(code.strip())


def network_name(code: str | None) -> str | None:
    """The name of the network behind AT's code; the code itself where AT does not document it."""
    network = None if code is None else find_network(code)
    return code if network is None else network.name


def network_codes(name: str) -> list[str]:
    """What `network_name` gives this name to."""
    return [code for code, network in NETWORK_CODES.items() if network.name == name] or [name]


def _find_by_text(code: object) -> StatusCode | None:
    text = code.strip() if isinstance(code, str) else ""
    return STATUS_CODES.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 6 else None
