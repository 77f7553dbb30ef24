"""What the pages call things: a clinic's clerk reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from messaging import statuses


class StatusWord(NamedTuple):
    """`tone`: `good`, `bad`, `wait`, `act` (somebody has to decide) or `done`."""

    words: str
    tone: str


STATUS_WORDS: Final[dict[str, StatusWord]] = {
    statuses.QUEUED: StatusWord("waiting", "wait"),
    statuses.SENDING: StatusWord("being sent", "wait"),
    statuses.ACCEPTED: StatusWord("on its way", "wait"),
    statuses.DELIVERED: StatusWord("delivered", "good"),
    statuses.FAILED: StatusWord("not delivered", "bad"),
    statuses.EXPIRED: StatusWord("too late", "bad"),
    statuses.REJECTED: StatusWord("refused", "bad"),
    statuses.UNKNOWN: StatusWord("may have been sent", "act"),
    statuses.HELD: StatusWord("held", "act"),
    statuses.BLOCKED: StatusWord("not allowed", "done"),
    statuses.CANCELLED: StatusWord("cancelled", "done"),
    statuses.NO_REPORT: StatusWord("sent, no report came", "done"),
}
BATCH_WORDS: Final[dict[str, StatusWord]] = {
    "receiving": StatusWord("being read", "wait"),
    "scheduled": StatusWord("scheduled", "wait"),
    "sending": StatusWord("being sent", "wait"),
    "paused": StatusWord("paused", "act"),
    "cancelled": StatusWord("cancelled", "done"),
    "finished": StatusWord("finished", "good"),
}
SOURCE_WORDS: Final = {
    "keyword": "texted STOP",
    "callback": "told by the network",
    "refused_406": "refused by Africa's Talking",
    "report": "told by a report",
    "api": "by a program",
    "operator": "by a person",
    "import": "from a file",
}
EVENT_WORDS: Final = {
    "api": "asked for by a program",
    "cli": "asked for at the command line",
    "page": "asked for on a page",
    "trigger": "asked for by a link",
    "batch": "row of a file",
    "reply": "automatic answer",
    "chat": "answer of a person",
    "resend": "sent again by a person",
    "provider": "said Africa's Talking",
    "report": "report of the network",
    "worker": "the service",
    "sweep": "the service",
    "operator": "a person",
    "recovery": "found after a restore",
}


def of_tone(counts: Mapping[str, int], tone: str) -> int:
    """How many of them the pages show in this tone."""
    return sum(in_tone(counts, tone).values())


def in_tone(counts: Mapping[str, int], tone: str) -> dict[str, int]:
    return {status: count for status, count in counts.items() if count and status_word(status).tone == tone}


def without_report(counts: Mapping[str, int]) -> int:
    """Of what left, as far as the same counts tell: a report of the next day is counted on that day."""
    reported = sum(counts.get(one, 0) for one in (statuses.DELIVERED, statuses.FAILED, statuses.NO_REPORT))
    return max(counts.get(statuses.ACCEPTED, 0) - reported, 0)


def status_word(status: str) -> StatusWord:
    return STATUS_WORDS.get(status, StatusWord(status, "done"))


def batch_word(status: str) -> StatusWord:
    return BATCH_WORDS.get(status, StatusWord(status, "done"))
