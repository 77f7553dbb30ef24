"""One step of the worker: claim, wait for the pace, POST, record. The worker is a thin loop round it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from datetime import timedelta
from functools import partial

from messaging import claims, postings, records
from messaging.claims import Claim, ClaimLimits
from messaging.database import Database
from messaging.pacing import Pace
from messaging.patience import with_patience
from messaging.windows import SendingWindows
from utils.errors import ProviderError
from utils.provider_answers import SendAnswer
from utils.settings import Settings
from utils.sms_utils import ProviderClient

LONGEST_NAP_SECONDS = 0.25
# All lanes of a process share the look: a text waits this long at most before one of them takes it.
URGENT_LOOK_SECONDS = 0.02

logger = logging.getLogger(__name__)


class Sender:
    """Sends what is due until nothing is, or until `stopping` is set: then it finishes its POST and lets go."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        provider: ProviderClient,
        stopping: threading.Event | None = None,
    ) -> None:
        self._database = database
        self._provider = provider
        self._stopping = stopping or threading.Event()
        self._timeout_seconds = settings.at_timeout_seconds
        self._lease = timedelta(seconds=settings.at_timeout_seconds) + claims.LEASE_AFTER_TIMEOUT
        self._next_urgent_look = 0.0
        self._limits = ClaimLimits(
            settings.at_max_recipients, self._lease, windows=SendingWindows.of(settings.sender_classes)
        )
        self._pace = Pace(settings.at_max_requests_per_second, settings.at_max_messages_per_second)

    def run_until_idle(self) -> int:
        """How many messages were posted."""
        posted = 0
        while not self._stopping.is_set():
            claimed = claims.claim(self._database, worker_name(), self._limits)
            if not claimed:
                break
            posted += self._send_all(claimed)
        return posted

    def _send_all(self, claimed: list[Claim]) -> int:
        posted = 0
        for one in claimed:
            if not one.urgent:
                posted += self._send_urgent()
            posted += self._send(one)
        return posted

    def _send_urgent(self) -> int:
        """A reply or a single text does not wait for the bulk that this worker already holds."""
        now = time.monotonic()
        if self._stopping.is_set() or now < self._next_urgent_look:
            return 0
        self._next_urgent_look = now + URGENT_LOOK_SECONDS
        if not claims.has_urgent(self._database):
            return 0
        urgent = claims.claim(self._database, worker_name(), self._limits, urgent_only=True)
        return sum(self._send(one) for one in urgent)

    def _send(self, one: Claim) -> int:
        turn = self._wait_for_turn(one)
        if not isinstance(turn, postings.Posting):
            return 0
        post(self._database, self._provider, turn, self._timeout_seconds)
        return len(turn.claim.recipients)

    def _wait_for_turn(self, one: Claim) -> postings.Posting | postings.Released:
        while not self._stopping.is_set():
            turn = postings.begin_posting(self._database, one, self._pace, self._lease)
            if not isinstance(turn, postings.Wait):
                return turn
            self._stopping.wait(min(turn.seconds, LONGEST_NAP_SECONDS))
            if not one.urgent:
                self._send_urgent()
        with self._database.write() as connection:
            postings.release(connection, one.attempt_id)
        return postings.Released("stopping")


def post(
    database: Database, provider: ProviderClient, posting: postings.Posting, deadline_seconds: float
) -> SendAnswer | ProviderError:
    """The POST, with no database session held, and its record. A failure is returned: it is an outcome.

    Who was stopped past the end of the lease sends nothing: others may have decided about these texts.
    """
    claim = posting.claim
    try:
        answer = provider.send_texts(
            claim.text,
            list(claim.recipients),
            claim.sender_id,
            deadline_seconds=deadline_seconds,
            not_after=posting.not_after,
            link_id=claim.link_id,
        )
    except ProviderError as error:
        logger.warning(
            "post failed",
            extra={"attempt_id": claim.attempt_id, "outcome": error.outcome, "reason": error.reason},
        )
        with_patience(partial(records.record_failure, database, posting, error))
        return error
    with_patience(partial(records.record_answer, database, posting, answer))
    return answer


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
