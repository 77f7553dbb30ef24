"""What an answer means beyond its own texts: a bad account or sender id, a blocked number, a breaker to open."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection

from messaging.consent import ledger
from messaging.costs import prices
from messaging.messages import pause_names
from messaging.sending import circuit_breaker, pauses, retry_policy
from messaging.sending.claim import Claim
from messaging.sending.start_post import Posting
from messaging.storage.database import Database
from utils.errors import ProviderError, ProviderRefused, ProviderThrottled
from utils.provider_answers import RecipientAnswer


def from_answer(
    database: Database,
    connection: Connection,
    claim: Claim,
    answers: Mapping[str, RecipientAnswer],
    now: datetime,
) -> None:
    """The caller has noted that AT answered (`circuit_breaker.answered`)."""
    paused = sorted({answer.pauses for answer in answers.values() if answer.pauses})
    for what in paused:
        example = next(answer for answer in answers.values() if answer.pauses == what)
        pauses.pause(connection, _pause_name(what, claim), example.reason or what, example.status_word, now)
    _suppress(connection, claim, [one for one, answer in answers.items() if answer.suppresses])
    is_fit = any(one.outcome == "accepted" for one in answers.values()) and not paused
    if claim.is_trigger and is_fit:
        pauses.resume(connection, pause_names.ACCOUNT)
        pauses.resume(connection, pause_names.sender_name(claim.sender_id))
    prices.learn(database, connection, claim.sender_id, claim.text, answers.values(), now)


def _suppress(connection: Connection, claim: Claim, recipients: list[str]) -> None:
    if not recipients:
        return
    # All at once: two answers with two numbers in common, in another order, would wait for each other.
    ledger.lock_phones(connection, recipients)
    for recipient in recipients:
        ledger.record_stop(
            connection,
            recipient,
            scope="sender",
            sender_id=claim.sender_id,
            source="refused_406",
            detail=f"attempt {claim.attempt_id}",
        )


def from_failure(connection: Connection, posting: Posting, error: ProviderError, now: datetime) -> None:
    if isinstance(error, ProviderThrottled):
        wait = timedelta(seconds=error.retry_after or retry_policy.FIRST_WAIT.total_seconds())
        circuit_breaker.hold_until(connection, now + wait, now)
    elif error.http_status is not None and error.outcome == "not_sent":
        circuit_breaker.answered(connection, now)
    elif not isinstance(error, ProviderRefused):
        circuit_breaker.no_answer(
            connection, posting.posting_at, now, timedelta(seconds=error.retry_after or 0)
        )
    if error.pauses:
        name = _pause_name(error.pauses, posting.claim)
        pauses.pause(connection, name, error.reason, str(error), now)


def _pause_name(what: str, claim: Claim) -> str:
    return pause_names.ACCOUNT if what == "account" else pause_names.sender_name(claim.sender_id)
