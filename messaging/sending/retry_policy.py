"""When a text that was certainly not sent is tried again, and when it is given up."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from messaging.sending.sending_hours import curfew_of
from utils.backoff import backoff
from utils.provider_codes import RESCHEDULED

FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(minutes=10)
# Long enough for a night without the provider; a text that is stale sooner has an `expires_at` of its own.
GIVE_UP_AFTER = timedelta(hours=24)
# A text may be old before it is tried at all (`send_at`, a paused batch): then about three hours of tries,
# or three mornings.
FEWEST_TRIES = 30
FEWEST_CURFEWS = 3


def wait_before_try(tries: int, jitter: float | None = None) -> timedelta:
    """Doubling, between half and the whole of the step, so that many rows do not come back at one moment."""
    share = random.uniform(0.5, 1.0) if jitter is None else jitter  # noqa: S311
    return backoff(tries, FIRST_WAIT, LONGEST_WAIT) * share


def is_given_up(created_at: datetime, now: datetime, tries: int, reason: str) -> bool:
    """`tries`: how often the text was certainly not sent, this time included."""
    fewest = FEWEST_CURFEWS if reason in RESCHEDULED else FEWEST_TRIES
    return tries >= fewest and now - created_at >= GIVE_UP_AFTER


def end_of_curfew(now: datetime, recipient: str | None = None) -> datetime:
    """The next time the window opens in the recipient's country: it was refused though it looked open to us."""
    return curfew_of(recipient).next_opening(now)
