"""One step of the worker: claim, wait for the rate limit, POST, record. The worker is a thin loop round it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from messaging.sending import claim as claims
from messaging.sending import due, last_check, record, start_post
from messaging.sending.claim import Claim, ClaimLimits
from messaging.sending.rate_limit import Rates
from messaging.sending.sending_hours import SendingWindows
from messaging.sending.start_post import Posting
from messaging.storage.database import Database
from messaging.storage.retrying import REFUSALS, TIMEOUT_SECONDS, is_passing, with_retries
from utils.errors import ProviderError, ServiceError
from utils.provider_answers import SendAnswer
from utils.settings import Settings
from utils.sms_utils import ProviderClient

LONGEST_NAP_SECONDS = 0.25
# All threads of a process share the look: a text waits this long at most before one of them takes it.
URGENT_LOOK_SECONDS = 0.02

logger = logging.getLogger(__name__)


class MessageSender:
    """Sends what is due until nothing is, or until `stopping` is set: then it finishes its POST and lets go."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        provider: ProviderClient,
        stopping: threading.Event | None = None,
        apply_reports: Callable[[], object] | None = None,
    ) -> None:
        """`apply_reports`: makes count what AT has already reported, before a text may be sent a second time."""
        self._apply_reports = apply_reports
        self._database = database
        self._provider = provider
        self._stopping = stopping or threading.Event()
        self._timeout_seconds = settings.at_timeout_seconds
        self._lease = timedelta(seconds=settings.at_timeout_seconds) + claims.LEASE_AFTER_TIMEOUT
        self._next_urgent_look = 0.0
        self._limits = ClaimLimits(
            settings.at_max_recipients, self._lease, windows=SendingWindows.of(settings.sender_classes)
        )
        self._rates = Rates(settings.at_max_requests_per_second, settings.at_max_messages_per_second)

    def run_until_idle(self) -> int:
        """How many messages were posted."""
        posted, has_called = 0, False
        while not self._stopping.is_set():
            posting, waiting = self._claim()
            if posting is None and not waiting:
                break
            if not has_called and self._is_full(posting, waiting):
                # More waits behind it: for the next thread too, which else would be the ticker's to wake.
                self._database.wake()
                has_called = True
            posted += self._send_all(posting, waiting)
        return posted

    def _claim(self, *, urgent_only: bool = False) -> tuple[Posting | None, deque[Claim]]:
        posting, waiting = start_post.claim_and_begin(
            self._database, worker_name(), self._limits, self._rates, urgent_only=urgent_only
        )
        return posting, deque(waiting)

    def _is_full(self, posting: Posting | None, waiting: Iterable[Claim]) -> bool:
        taken = [*waiting] if posting is None else [posting.claim, *waiting]
        most = min(self._limits.recipients_per_post, due.POSTS_PER_CLAIM)
        return sum(len(one.recipients) for one in taken) >= most

    def _send_all(self, posting: Posting | None, waiting: deque[Claim]) -> int:
        """`posting` at once, for it is written down that it leaves; then those that wait."""
        posted = 0
        while posting is not None or waiting:
            if posting is None:
                if not waiting[0].urgent:
                    posted += self._send_urgent()
                posting = self._wait_for_turn(waiting.popleft())
            if posting is not None:
                outcome = ask_provider(self._provider, posting, self._timeout_seconds)
                posted += len(posting.claim.recipients)
                posting = self._record(posting, outcome, waiting)
        return posted

    def _record(
        self, posting: Posting, outcome: SendAnswer | ProviderError, waiting: deque[Claim]
    ) -> Posting | None:
        """Writes down what the POST came to and, in the same transaction, that the next one leaves."""
        if leaves_doubt(outcome):
            self._hear_reports()
        if isinstance(outcome, ProviderError) or not self._may_follow(waiting):
            write_outcome(self._database, posting, outcome)
            return None
        steps = [
            record.answer_step(self._database, posting, outcome),
            start_post.begin_step(self._database, waiting[0], self._rates, self._lease),
        ]
        try:
            _, turn = with_retries(partial(self._database.group_commit.submit_together, steps))
        except (SQLAlchemyError, OverflowError, ServiceError):
            # What ails the next POST must not cost the answer to this one.
            write_outcome(self._database, posting, outcome)
            next_turn = partial(self._database.group_commit.submit_together, steps[1:])
            (turn,) = with_retries(next_turn, self._lease.total_seconds())
        if isinstance(turn, start_post.Wait):
            return None
        waiting.popleft()
        return turn if isinstance(turn, Posting) else None

    def _hear_reports(self) -> None:
        """`on_unknown=resend` sends again what is unknown: not what a report has settled meanwhile."""
        try:
            if self._apply_reports is not None:
                self._apply_reports()
        except SQLAlchemyError:
            logger.warning("reports are not applied before a text may be sent again", exc_info=True)

    def _may_follow(self, waiting: deque[Claim]) -> bool:
        """What is once written down as leaving has to leave at once: nothing may come in between."""
        if not waiting or self._stopping.is_set():
            return False
        if waiting[0].urgent or not self._sees_urgent():
            return True
        self._next_urgent_look = 0.0
        return False

    def _send_urgent(self) -> int:
        """A reply or a single text does not wait for the bulk that this worker already holds."""
        if self._stopping.is_set() or not self._sees_urgent():
            return 0
        return self._send_all(*self._claim(urgent_only=True))

    def _sees_urgent(self) -> bool:
        now = time.monotonic()
        if now < self._next_urgent_look:
            return False
        self._next_urgent_look = now + URGENT_LOOK_SECONDS
        try:
            return due.has_urgent(self._database)
        except SQLAlchemyError:
            # The answer that this thread holds must not be lost for a look.
            return False

    def _wait_for_turn(self, one: Claim) -> Posting | None:
        while not self._stopping.is_set():
            turn = start_post.begin_posting(self._database, one, self._rates, self._lease)
            if not isinstance(turn, start_post.Wait):
                return turn if isinstance(turn, Posting) else None
            self._stopping.wait(min(turn.seconds, LONGEST_NAP_SECONDS))
            if not one.urgent:
                self._send_urgent()
        with self._database.write() as connection:
            last_check.release(connection, one.attempt_id)
        return None


def ask_provider(
    provider: ProviderClient, posting: Posting, deadline_seconds: float
) -> SendAnswer | ProviderError:
    """The POST, with no database session held. A failure is returned: it is an outcome.

    Who was stopped past the end of the lease sends nothing: others may have decided about these texts.
    """
    claim = posting.claim
    try:
        return provider.send_texts(
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
        return error


def leaves_doubt(outcome: SendAnswer | ProviderError) -> bool:
    if isinstance(outcome, ProviderError):
        return outcome.outcome == "unknown"
    return any(answer.outcome == "unknown" for answer in outcome.recipients.values())


def write_outcome(
    database: Database,
    posting: Posting,
    outcome: SendAnswer | ProviderError,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> None:
    """One recipient's answer that the store refuses does not cost the others of the POST theirs."""
    if isinstance(outcome, ProviderError):
        with_retries(partial(record.record_failure, database, posting, outcome), timeout_seconds)
        return
    try:
        with_retries(partial(record.record_answer, database, posting, outcome), timeout_seconds)
    except REFUSALS as error:
        if is_passing(error):
            raise
        logger.exception(
            "an answer cannot be stored as it is", extra={"attempt_id": posting.claim.attempt_id}
        )
        with_retries(partial(record.record_with_care, database, posting, outcome), timeout_seconds)


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
