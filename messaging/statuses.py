"""The life of a message: which status may follow which. docs/architecture.md draws it."""

from __future__ import annotations

QUEUED = "queued"
SENDING = "sending"
ACCEPTED = "accepted"
DELIVERED = "delivered"
FAILED = "failed"
EXPIRED = "expired"
REJECTED = "rejected"
UNKNOWN = "unknown"
# A brake or a restore holds it: a person releases or cancels it.
HELD = "held"
BLOCKED = "blocked"
CANCELLED = "cancelled"
NO_REPORT = "no_report"

ALL = (
    QUEUED,
    SENDING,
    ACCEPTED,
    DELIVERED,
    FAILED,
    EXPIRED,
    REJECTED,
    UNKNOWN,
    HELD,
    BLOCKED,
    CANCELLED,
    NO_REPORT,
)
# What is still to be sent, or being sent.
UNFINISHED = (QUEUED, SENDING, HELD)
# What did not arrive, or is not known to have: each has a reason.
NOT_REACHED = (FAILED, EXPIRED, REJECTED, UNKNOWN, BLOCKED)
# Nothing moves these any more.
FINAL = frozenset({DELIVERED, REJECTED, BLOCKED, CANCELLED})
# What a finished message shows; some still yield to a later `Success`.
SETTLED = FINAL | {FAILED, EXPIRED, NO_REPORT}

# What a delivery report may change. AT does not call AbsentSubscriber and Expired final, so a bad word
# yields to a later Success, never to another bad word: the first reason is the one to act on.
_AFTER_REPORT: dict[str, frozenset[str]] = {
    ACCEPTED: frozenset({ACCEPTED, UNKNOWN}),
    DELIVERED: frozenset({ACCEPTED, UNKNOWN, NO_REPORT, EXPIRED, FAILED}),
    FAILED: frozenset({ACCEPTED, UNKNOWN, NO_REPORT}),
    EXPIRED: frozenset({ACCEPTED, UNKNOWN, NO_REPORT}),
}


def may_follow_by_report(current: str, reported: str) -> bool:
    """Whether a report that means `reported` moves a message that stands at `current` (also to the same word)."""
    return current in _AFTER_REPORT.get(reported, frozenset())


# Which event may follow which in a history; the audit proves that no other pair exists. `sending` is not an
# event of its own (the attempt is), so `queued` stands before everything that a POST may come to.
STEPS: dict[str, frozenset[str]] = {
    QUEUED: frozenset({QUEUED, ACCEPTED, REJECTED, FAILED, UNKNOWN, HELD, BLOCKED, CANCELLED, EXPIRED}),
    # Unknown: after a restore it turns out that it had left.
    HELD: frozenset({QUEUED, BLOCKED, CANCELLED, EXPIRED, UNKNOWN}),
    ACCEPTED: frozenset({ACCEPTED, DELIVERED, FAILED, EXPIRED, NO_REPORT}),
    UNKNOWN: frozenset({UNKNOWN, ACCEPTED, REJECTED, QUEUED, DELIVERED, FAILED, EXPIRED}),
    NO_REPORT: frozenset({DELIVERED, FAILED, EXPIRED}),
    FAILED: frozenset({DELIVERED}),
    EXPIRED: frozenset({DELIVERED}),
    DELIVERED: frozenset(),
    REJECTED: frozenset(),
    BLOCKED: frozenset(),
    CANCELLED: frozenset(),
}
