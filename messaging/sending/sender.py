"""One step of the worker: claim, wait for the rate limit, POST, record. The worker is a thin loop round it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from messaging.consent.consents import ConsentRule
from messaging.costs.daily_limits import DailyLimits
from messaging.sending import claim as claims
from messaging.sending import due, record, start_post
from messaging.sending.claim import Claim, ClaimLimits, Taken
from messaging.sending.rate_limit import Rates
from messaging.sending.sending_hours import SendingWindows
from messaging.sending.start_post import Posting
from messaging.sending.witness import Witness
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.retrying import REFUSALS, TIMEOUT_SECONDS, is_passing, with_retries
from utils.errors import ProviderError, Recovering, WitnessUnwritable
from utils.provider_answers import SendAnswer
from utils.settings import Settings
from utils.sms_utils import ProviderClient

LONGEST_NAP_SECONDS = 0.25
# What a thread claims at once: more would keep it busy while others have nothing left to send.
CLAIMED_SECONDS = 2.0
# Until a POST was made; then what the latest ones took.
USUAL_SECONDS_PER_POST = 0.5
LATEST_SHARE = 0.1
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
        self._seconds_per_post = USUAL_SECONDS_PER_POST
        self.looks = due.LongLooks()
        self._limits = ClaimLimits(
            settings.at_max_recipients,
            self._lease,
            lanes=settings.worker_concurrency,
            windows=SendingWindows.of(settings.sender_classes),
            looks=self.looks,
            consent=ConsentRule.of(settings),
            daily=DailyLimits.of(settings),
        )
        self._rates = Rates(settings.at_max_requests_per_second, settings.at_max_messages_per_second)
        self.witness = Witness(settings, database)

    def run_until_idle(self) -> int:
        """How many messages were posted."""
        posted, has_called = 0, False
        while self._may_send():
            taken = self._claim()
            if not taken.claims and not taken.is_more:
                break
            if not has_called and taken.is_more:
                # For the next thread, which else would be the ticker's to wake.
                self._database.wake()
                has_called = True
            posted += self._send_all(taken.claims)
        return posted

    def _may_send(self) -> bool:
        return not self._stopping.is_set() and self.witness.is_writable()

    def _claim(self, *, urgent_only: bool = False) -> Taken:
        limits = replace(self._limits, posts=self._posts_per_claim())
        claim_due = partial(claims.claim_due, urgent_only=urgent_only)
        try:
            return with_retries(lambda: claim_due(self._database, worker_name(), limits))
        except Recovering:
            return Taken([])

    def _posts_per_claim(self) -> int:
        return max(1, min(round(CLAIMED_SECONDS / self._seconds_per_post), claims.MOST_POSTS))

    def _send_all(self, claimed: Iterable[Claim]) -> int:
        posted = 0
        for claim in claimed:
            if not claim.urgent:
                posted += self._send_urgent()
            posting = self._wait_for_turn(claim)
            if posting is not None:
                outcome = self._ask_provider(posting)
                posted += len(posting.claim.recipients)
                self._record(posting, outcome)
        return posted

    def _record(self, posting: Posting, outcome: SendAnswer | ProviderError) -> None:
        if leaves_doubt(outcome):
            self._hear_reports()
        write_outcome(self._database, posting, outcome)

    def _ask_provider(self, posting: Posting) -> SendAnswer | ProviderError:
        began_at = time.monotonic()
        outcome = ask_provider(self._provider, posting, self._timeout_seconds)
        # Other threads write it too: a value that is lost costs nothing.
        seconds = time.monotonic() - began_at
        self._seconds_per_post += LATEST_SHARE * (seconds - self._seconds_per_post)
        return outcome

    def _hear_reports(self) -> None:
        """`on_unknown=resend` sends again what is unknown: not what a report has settled meanwhile."""
        try:
            if self._apply_reports is not None:
                self._apply_reports()
        except SQLAlchemyError:
            logger.warning("reports are not applied before a text may be sent again", exc_info=True)

    def _send_urgent(self) -> int:
        """A reply or a single text does not wait for the bulk that this worker already holds."""
        if not self._may_send() or not self._sees_urgent():
            return 0
        return self._send_all(self._claim(urgent_only=True).claims)

    def _sees_urgent(self) -> bool:
        now = time.monotonic()
        if now < self._next_urgent_look:
            return False
        self._next_urgent_look = now + URGENT_LOOK_SECONDS
        try:
            return due.has_urgent(self._database)
        except SQLAlchemyError:
            # What this thread has claimed must not wait for a look.
            return False

    def _wait_for_turn(self, one: Claim) -> Posting | None:
        while self._may_send():
            try:
                turn = self._begin_posting(one)
            except WitnessUnwritable:
                break
            except Recovering:
                # Which claims are given back is the recovery's business.
                return None
            if not isinstance(turn, start_post.Wait):
                return turn if isinstance(turn, Posting) else None
            self._stopping.wait(min(turn.seconds, LONGEST_NAP_SECONDS))
            if not one.urgent:
                self._send_urgent()
        with self._database.write() as connection:
            start_post.give_back(connection, one, wall_clock(connection))
        return None

    def _begin_posting(self, one: Claim) -> start_post.Turn:
        """What it returns to post is in the witness. Raises WitnessUnwritable: then it may be marked all the same."""
        with self.witness.turn():
            turn = start_post.begin_posting(self._database, one, self._rates, self._lease)
            if isinstance(turn, Posting):
                self.witness.note(turn)
            return turn


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
    else:
        _write_answer(database, posting, outcome, timeout_seconds)
    claim = posting.claim
    said = (
        {outcome.outcome: len(claim.recipients)} if isinstance(outcome, ProviderError) else _outcomes(outcome)
    )
    note = {"attempt_id": claim.attempt_id, "outcomes": said, "message_ids": list(claim.recipients.values())}
    logger.info("a POST is recorded", extra=note)


def _outcomes(answer: SendAnswer) -> dict[str, int]:
    return dict(Counter(one.outcome for one in answer.recipients.values()))


def _write_answer(database: Database, posting: Posting, outcome: SendAnswer, timeout_seconds: float) -> None:
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
