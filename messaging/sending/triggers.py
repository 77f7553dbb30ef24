"""A send inside the request (the GET triggers): its rows are never the worker's.

Recorded before the POST and after it. Not sent: `failed`, and the caller may retry. Died while claimed:
`cancelled`; died while posting: `unknown` (the sweep finds both).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import SQLAlchemyError

from messaging import statuses
from messaging.access.actor import acting_name
from messaging.consent import ledger
from messaging.consent.consents import ConsentRule
from messaging.costs import brakes
from messaging.costs.daily_limits import DailyLimits
from messaging.costs.prices import Going, estimate
from messaging.messages import idempotency, status_events
from messaging.messages.accept import validate_text
from messaging.messages.lost_texts import digest_of_call
from messaging.messages.queue import SINGLE_PRIORITY, NewMessage, enqueue
from messaging.messages.way_out import WayOut
from messaging.sending import claim as claims
from messaging.sending import last_check, start_post
from messaging.sending.claim import Claim
from messaging.sending.origins import Origin
from messaging.sending.rate_limit import Rates
from messaging.sending.sender import ask_provider, worker_name, write_outcome
from messaging.sending.witness import Witness
from messaging.storage import rollback, tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from messaging.storage.identity import new_token
from messaging.storage.new_ids import reserve_ids
from utils import reasons
from utils.deadlines import boot_clock
from utils.errors import (
    Busy,
    Forbidden,
    InvalidInput,
    NoConsent,
    NoRecipients,
    OptedOut,
    OutcomeUnknown,
    ProviderError,
    ServiceError,
    WitnessUnwritable,
)
from utils.provider_answers import SendAnswer
from utils.segments import measure
from utils.settings import Settings
from utils.sms_utils import ProviderClient
from utils.texts import compose

DEADLINE_SECONDS = 20.0
LEASE = timedelta(seconds=DEADLINE_SECONDS) + claims.LEASE_AFTER_TIMEOUT
LONGEST_NAP_SECONDS = 0.1
# With less time left an answer would hardly come, and its outcome be unknown for nothing.
LEAST_POST_SECONDS = 1.0
# Kept of the deadline for the record of the answer, which goes on behind the caller's back where it takes longer.
RECORD_SECONDS = 0.5
ROUTE = "trigger"
WAITED_TOO_LONG = "This call waited too long for its turn and was not sent; try again in a moment"


logger = logging.getLogger(__name__)


class RecipientsRejected(ServiceError):
    """AT answered and took none of the recipients; `response` is its answer."""

    code = "rejected"
    sentence = "Africa's Talking took none of the recipients"

    def __init__(self, message: str | None, response: dict[str, Any]) -> None:
        super().__init__(message)
        self.response = response


class DailyLimitReached(Forbidden):
    code = reasons.DAILY_LIMIT
    sentence = "The limit of what may be spent in a day is reached, so nothing was sent"


class _ToSend(NamedTuple):
    """What a limit has to know of a text of a trigger, beside what it has none of."""

    id: int
    recipient: str
    text: str
    sender_id: str | None
    created_by: str | None
    batch_id: int | None = None
    estimated_parts: int | None = None
    passes_limits: bool = False


@dataclass(frozen=True, slots=True)
class TriggerResult:
    response: dict[str, Any]
    accepted: list[str]
    blocked: list[str]
    no_consent: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Barred:
    """Who is not texted. `blocked`: they opted out."""

    blocked: list[str] = field(default_factory=list)
    no_consent: list[str] = field(default_factory=list)

    def refusal(self) -> ServiceError:
        """Where nobody else was asked for."""
        recipients = [*self.blocked, *self.no_consent]
        error = OptedOut if self.blocked else NoConsent
        sentence = _opted_out_sentence(recipients) if self.blocked else _no_consent_sentence(recipients)
        if self.blocked and self.no_consent:
            sentence = f"All {len(recipients)} recipients opted out or have not agreed, and are not texted"
        return error(sentence, details={"recipients": recipients})


@dataclass(frozen=True, slots=True)
class _Accepted:
    claim: Claim | None
    barred: _Barred
    earlier: idempotency.Earlier | None = None


_WHY_BLOCKED = select(tables.messages.c.recipient, tables.messages.c.reason).where(
    one_of(tables.messages.c.id, "ids")
)


class TriggerSender:
    def __init__(self, settings: Settings, database: Database, provider: ProviderClient) -> None:
        self._settings = settings
        self._database = database
        self._consent = ConsentRule.of(settings)
        self._daily = DailyLimits.of(settings)
        self._provider = provider
        self._rates = Rates(settings.at_max_requests_per_second, settings.at_max_messages_per_second)
        self._witness = Witness(settings, database)

    def send_now(
        self,
        text: str,
        recipients: Sequence[str],
        sender_id: str | None,
        idempotency_key: str | None = None,
    ) -> TriggerResult:
        """One POST, now, within 20 seconds. `recipients` are E.164.

        Raises InvalidInput, OptedOut, NoConsent, Forbidden (a brake), Busy, RecipientsRejected and the ProviderError
        tree; with a key that was used before, what the first call came to (StillRunning, KeyReused, OutcomeUnknown …).
        WitnessUnwritable and Recovering where nothing may leave now.
        """
        self._witness.require_writable()
        deadline = time.monotonic() + DEADLINE_SECONDS
        unique = list(dict.fromkeys(recipients))
        self._validate(text, unique)
        accepted = self._accept(compose(text), unique, sender_id, idempotency_key)
        if accepted.earlier is not None:
            return self._answer_again(accepted.earlier, accepted.barred)
        if accepted.claim is None:
            raise accepted.barred.refusal()
        posting = self._wait_for_turn(accepted.claim, deadline)
        seconds_left = deadline - RECORD_SECONDS - time.monotonic()
        outcome = ask_provider(self._provider, posting, seconds_left)
        self._record(posting, outcome, deadline)
        if isinstance(outcome, ProviderError):
            raise _as_rejection(outcome)
        return _result(outcome, accepted.barred)

    def _validate(self, text: str, recipients: Sequence[str]) -> None:
        validate_text(text, field="message")
        if not recipients:
            raise NoRecipients(field="phone")
        if len(recipients) > self._settings.at_max_recipients:
            raise InvalidInput(
                f"At most {self._settings.at_max_recipients} numbers in one call: send a batch instead",
                code="too_many_recipients",
                field="phone",
            )

    def _accept(self, given: str, recipients: list[str], sender_id: str | None, key: str | None) -> _Accepted:
        text = WayOut.of(self._settings, sender_id).composed(given, field="message")
        with self._database.write() as connection:
            now = wall_clock(connection)
            identity = rollback.require(connection, now)
            if key is not None:
                # What the caller gave: the way out may have been set anew since the first call.
                mark = idempotency.fingerprint([given, recipients, sender_id])
                earlier = idempotency.begin(connection, ROUTE, key, mark, now)
                if earlier is not None and not _may_send_again(connection, earlier):
                    return _Accepted(None, _Barred(), earlier)
            self._require_no_brake(connection, text, recipients, sender_id, now)
            suppressed = ledger.suppressed(connection, recipients, sender_id)
            lacking = self._consent.lacking(connection, recipients, sender_id) - suppressed
            barred = _Barred(
                [one for one in recipients if one in suppressed],
                [one for one in recipients if one in lacking],
            )
            free = [one for one in recipients if one not in suppressed | lacking]
            self._write_blocked(connection, text, barred.blocked, sender_id, reasons.OPTED_OUT, now)
            self._write_blocked(connection, text, barred.no_consent, sender_id, reasons.NO_CONSENT, now)
            claim = self._write_claim(connection, text, free, sender_id, now) if free else None
            if key is not None and claim is not None:
                origin = Origin(call=digest_of_call(identity, ROUTE, key))
                claim = replace(claim, origins=dict.fromkeys(claim.recipients.values(), origin))
            if key is not None:
                attempt_id = None if claim is None else claim.attempt_id
                idempotency.finish(connection, ROUTE, key, asdict(barred), attempt_id)
            return _Accepted(claim, barred)

    def _require_no_brake(
        self, connection: Connection, text: str, recipients: list[str], sender_id: str | None, now: datetime
    ) -> None:
        """What would wait for a person as a batch cannot wait here. Raises Forbidden with the reason as its code."""
        costs = None
        if brakes.asks_for_money(self._settings):
            parts = measure(text).parts
            going = (Going(one, 1, parts) for one in recipients)
            costs = estimate(connection, sender_id, going)
        brake = brakes.find_brake(self._settings, connection, now, len(recipients), costs)
        if brake is not None:
            said = reasons.in_json(brake.reason, detail=brake.detail)["explanation"]
            raise Forbidden(f"{said}. Send it as a batch: it waits for an approver", code=brake.reason)

    def _write_blocked(
        self,
        connection: Connection,
        text: str,
        blocked: list[str],
        sender_id: str | None,
        reason: str,
        now: datetime,
    ) -> None:
        rows = [_new_message(one, text, sender_id) for one in blocked]
        ids = enqueue(connection, rows, status=statuses.SENDING)
        status_events.settle(connection, list(ids), statuses.BLOCKED, reason, now)

    def _write_claim(
        self, connection: Connection, text: str, free: list[str], sender_id: str | None, now: datetime
    ) -> Claim:
        attempt_id = reserve_ids(connection, tables.attempts, 1)[0]
        rows = [_new_message(one, text, sender_id) for one in free]
        ids = enqueue(connection, rows, status=statuses.SENDING, attempt_id=attempt_id)
        recipients = dict(zip(free, ids, strict=True))
        limited = [
            _ToSend(one, to, text, sender_id, created_by=acting_name()) for to, one in recipients.items()
        ]
        charges = self._daily.charges(connection, limited)
        claim = Claim(
            attempt_id,
            text,
            sender_id,
            None,
            recipients,
            urgent=True,
            is_trigger=True,
            token=new_token(),
            needs_consent=self._consent.applies_to(sender_id),
            charges=claims.charges_of(recipients, charges, self._daily.time_zone),
        )
        lease_until = steady(connection, now) + LEASE
        connection.execute(
            insert(tables.attempts), [claims.attempt_row(claim, worker_name(), now, lease_until)]
        )
        return claim

    def _wait_for_turn(self, claim: Claim, deadline: float) -> start_post.Posting:
        while True:
            turn = self._begin(claim, deadline)
            if isinstance(turn, last_check.Released):
                raise self._not_posted(turn, claim)
            if isinstance(turn, start_post.Posting):
                return turn
            if turn.seconds > _seconds_left(deadline):
                self._give_up(claim, is_marked=False)
                raise Busy("The rate limit of Africa's Talking is used up; try again in a moment")
            time.sleep(min(turn.seconds, LONGEST_NAP_SECONDS))

    def _not_posted(self, turn: last_check.Released, claim: Claim) -> ServiceError:
        if turn.reason == reasons.DAILY_LIMIT:
            return DailyLimitReached()
        if turn.reason != "nobody_left":
            return Busy(WAITED_TOO_LONG)
        with self._database.read() as connection:
            why = connection.execute(_WHY_BLOCKED, {"ids": list(claim.recipients.values())}).all()
        return _Barred(
            [row.recipient for row in why if row.reason != reasons.NO_CONSENT],
            [row.recipient for row in why if row.reason == reasons.NO_CONSENT],
        ).refusal()

    def _begin(self, claim: Claim, deadline: float) -> start_post.Turn:
        """What it returns to post is in the witness. Raises Busy, WitnessUnwritable: then nothing leaves."""
        try:
            with self._witness.turn():
                timeout_seconds = _seconds_left(deadline)
                turn = start_post.begin_posting(self._database, claim, self._rates, LEASE, timeout_seconds)
                if isinstance(turn, start_post.Posting):
                    _require_time(deadline)
                    self._witness.note(turn)
                return turn
        except (Busy, WitnessUnwritable) as error:
            self._give_up(claim, is_marked=True, reason=error.code)
            raise

    def _record(
        self, posting: start_post.Posting, outcome: SendAnswer | ProviderError, deadline: float
    ) -> None:
        """Waits until it is written down, or the caller has to hear what AT said: that is true in any case.

        A database that went away is tried until the lease ends. The thread is no daemon: a process that is asked
        to stop waits for it.
        """
        # With the request's id for its lines.
        write_down = partial(copy_context().run, self._write_down, posting, outcome)
        thread = threading.Thread(target=write_down, name="trigger-record")
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()))

    def _write_down(self, posting: start_post.Posting, outcome: SendAnswer | ProviderError) -> None:
        try:
            write_outcome(self._database, posting, outcome, max(0.0, posting.not_after - boot_clock()))
        except (SQLAlchemyError, ServiceError):
            # The caller has AT's answer. Here a sweep will call these texts unknown.
            logger.exception(
                "what a trigger sent is not recorded", extra={"attempt_id": posting.claim.attempt_id}
            )

    def _give_up(self, claim: Claim, *, is_marked: bool, reason: str = "busy") -> None:
        with self._database.write() as connection:
            now = wall_clock(connection)
            if start_post.is_ours(connection, claim):
                start_post.cancel(connection, claim.attempt_id, reason, now, is_marked=is_marked)

    def _answer_again(self, earlier: idempotency.Earlier, barred: _Barred) -> TriggerResult:
        if earlier.answer:
            barred = _Barred(earlier.answer.get("blocked", []), earlier.answer.get("no_consent", []))
        if earlier.attempt_id is None:
            raise barred.refusal()
        with self._database.read() as connection:
            row = _attempt(connection, earlier.attempt_id)
        if row.state in ("claimed", "posting"):
            raise idempotency.StillRunning(field="Idempotency-Key")
        if row.answer is None:
            raise OutcomeUnknown(reason=row.reason or "worker_died", http_status=row.http_status)
        again = json.loads(row.answer)
        return _result_of(again["response"], again["accepted"], again["unknown"], barred)


def _seconds_left(deadline: float) -> float:
    """Until it is too late to begin a POST."""
    return deadline - LEAST_POST_SECONDS - time.monotonic()


def _require_time(deadline: float) -> None:
    if _seconds_left(deadline) < 0:
        raise Busy(WAITED_TOO_LONG)


def _may_send_again(connection: Connection, earlier: idempotency.Earlier) -> bool:
    """A first call that certainly sent nothing leaves its key free for the retry."""
    if earlier.attempt_id is None:
        return False
    row = _attempt(connection, earlier.attempt_id)
    if row.state != "recorded" or row.answer is None:
        return bool(row.state == "released" or row.outcome == "not_sent")
    kept = json.loads(row.answer)
    return not kept["accepted"] and not kept["unknown"]


def _attempt(connection: Connection, attempt_id: int) -> Any:
    return connection.execute(select(tables.attempts).where(tables.attempts.c.id == attempt_id)).one()


def _new_message(recipient: str, text: str, sender_id: str | None) -> NewMessage:
    return NewMessage(recipient, text, sender_id, origin="trigger", priority=SINGLE_PRIORITY)


def _opted_out_sentence(recipients: Sequence[str]) -> str:
    if len(recipients) == 1:
        return f"{recipients[0]} opted out and is not texted"
    return f"All {len(recipients)} recipients opted out and are not texted"


def _no_consent_sentence(recipients: Sequence[str]) -> str:
    if len(recipients) == 1:
        return f"{recipients[0]} has not agreed to texts from this sender and is not texted"
    return f"None of the {len(recipients)} recipients has agreed to texts from this sender: nobody is texted"


def _as_rejection(error: ProviderError) -> ServiceError:
    """AT answered 201 and took nobody: that is its verdict on these recipients, not trouble on the way."""
    if error.outcome == "not_sent" and error.http_status == 201 and error.response is not None:
        return RecipientsRejected(error.message, error.response)
    return error


def _result(answer: SendAnswer, barred: _Barred) -> TriggerResult:
    return _result_of(answer.raw, _with_outcome(answer, "accepted"), _with_outcome(answer, "unknown"), barred)


def _with_outcome(answer: SendAnswer, outcome: str) -> list[str]:
    return [one for one, theirs in answer.recipients.items() if theirs.outcome == outcome]


def _result_of(
    response: dict[str, Any], accepted: list[str], unknown: list[str], barred: _Barred
) -> TriggerResult:
    if accepted:
        return TriggerResult(response, accepted, barred.blocked, barred.no_consent)
    if unknown:
        raise OutcomeUnknown(reason="missing_from_answer", http_status=201, response=response)
    raise RecipientsRejected(None, response)
