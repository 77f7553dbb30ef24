"""The last of three small writes round a POST: what a POST came to, for all of its recipients, in one transaction.

It is fenced by the attempt: only its own POST may write here, once, also after a sweep has called it unknown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from messaging import statuses
from messaging.costs import budgets, daily_limits
from messaging.reports import parked
from messaging.sending import answer_effects, circuit_breaker
from messaging.sending.claim import Claim
from messaging.sending.last_check import IS_SENDING
from messaging.sending.record_writes import RecordWrites
from messaging.sending.start_post import Posting
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database, lock_keys, savepoint
from messaging.storage.retrying import REFUSALS, is_passing
from utils.errors import ProviderError, StorageUnavailable
from utils.provider_answers import RecipientAnswer, SendAnswer

_STATES = (
    select(tables.attempts.c.id, tables.attempts.c.token, tables.attempts.c.state, tables.attempts.c.counted)
    .where(tables.WITH_TOKEN, one_of(tables.attempts.c.token, "tokens"))
    .order_by(tables.attempts.c.id)
    .with_for_update()
)


_HELD = (
    select(tables.messages.c.attempt_id, func.count().label("held"))
    .where(one_of(tables.messages.c.attempt_id, "ids"), IS_SENDING)
    .group_by(tables.messages.c.attempt_id)
)


class AttemptMissing(StorageUnavailable):
    """The database was put back since the POST began. It is tried again: a recovery makes the attempt anew."""

    sentence = "The database does not have this attempt any more"


@dataclass(frozen=True, slots=True)
class _Owned:
    """What the record may still settle: message ids by recipient, and what each row needs for its next step."""

    ids: dict[str, int]
    rows: dict[int, Any]
    # A sweep has called the attempt unknown before.
    was_lost: bool = False


@dataclass(frozen=True, slots=True)
class _Answered:
    database: Database
    posting: Posting
    answer: SendAnswer


def record_answer(database: Database, posting: Posting, answer: SendAnswer) -> None:
    """AT answered and named its recipients; one that it did not name is unknown.

    Records of several threads share a commit. The second record of a POST writes nothing.
    """
    item = _Answered(database, posting, answer)
    database.group_commit.submit(_record_answers, item, weight=len(posting.claim.recipients))


def record_with_care(database: Database, posting: Posting, answer: SendAnswer) -> None:
    """`record_answer` where the store refuses something in it: what can be stored is, the rest is left out.

    Each recipient's answer is tried by itself and taken back. Of one that is refused only the outcome is kept.
    """
    with database.write() as connection:
        recipients = {
            number: found if _can_record(connection, database, posting, answer, found) else _outcome_of(found)
            for number, found in answer.recipients.items()
        }
        told = replace(answer, recipients=recipients)
        if not _is_recordable(connection, _Answered(database, posting, told)):
            told = replace(told, raw={}, message="")
        _record_answers(connection, [_Answered(database, posting, told)])


def _can_record(
    connection: Connection, database: Database, posting: Posting, answer: SendAnswer, found: RecipientAnswer
) -> bool:
    number = found.number
    alone = replace(posting.claim, recipients={number: posting.claim.recipients[number]})
    said = replace(answer, raw={}, message="", recipients={number: found})
    return _is_recordable(connection, _Answered(database, replace(posting, claim=alone), said))


def _is_recordable(connection: Connection, one: _Answered) -> bool:
    try:
        with savepoint(connection) as tried:
            _record_answers(connection, [one])
            tried.rollback()
    except REFUSALS as error:
        if is_passing(error):
            raise
        return False
    return True


def _outcome_of(found: RecipientAnswer) -> RecipientAnswer:
    return found._replace(status_word=None, provider_message_id=None, cost=None, cost_raw=None, parts=None)


def _record_answers(connection: Connection, answered: list[_Answered]) -> list[None]:
    database = answered[0].database
    now = wall_clock(connection)
    written = {one.posting.claim.token: one for one in answered}
    found = connection.execute(_STATES, {"tokens": list(written)}).all()
    if len(found) < len(written):
        raise AttemptMissing
    states = {row.id: row.state for row in found}
    here = [_as_it_is_here(connection, written[row.token], row.id) for row in found]
    ours = [one for one in here if states[one.posting.claim.attempt_id] in ("posting", "unknown")]
    if ours:
        _write_answers(database, connection, ours, states, now)
        counted = {row.id: row.counted for row in found}
        for one in ours:
            claim = one.posting.claim
            of_attempt = counted[claim.attempt_id]
            daily_limits.correct_by_answer(connection, claim.charges, of_attempt, one.answer.recipients, now)
    return [None] * len(answered)


def _as_it_is_here(connection: Connection, one: _Answered, attempt_id: int) -> _Answered:
    return replace(one, posting=_under(connection, one.posting, attempt_id))


def _under(connection: Connection, posting: Posting, attempt_id: int) -> Posting:
    """In a database that was put back a recovery has made the attempt anew: another id, and maybe fewer messages."""
    if posting.claim.attempt_id == attempt_id:
        return posting
    mine = select(tables.messages.c.recipient, tables.messages.c.id).where(
        one_of(tables.messages.c.recipient, "recipients"), tables.messages.c.attempt_id == attempt_id
    )
    found = connection.execute(mine, {"recipients": list(posting.claim.recipients)})
    recipients = {row.recipient: row.id for row in found}
    return replace(posting, claim=replace(posting.claim, attempt_id=attempt_id, recipients=recipients))


def _write_answers(
    database: Database, connection: Connection, ours: list[_Answered], states: dict[int, str], now: datetime
) -> None:
    posting = [attempt_id for attempt_id, state in states.items() if state == "posting"]
    held = {row.attempt_id: row.held for row in connection.execute(_HELD, {"ids": posting})}
    writes = [_writes(connection, one, held.get(one.posting.claim.attempt_id, 0), now) for one in ours]
    together = writes[0]
    for other in writes[1:]:
        together.take_over(other)
    if together.provider_ids:
        lock_keys(connection, [f"report:{provider_id}" for provider_id in together.provider_ids])
    together.execute(connection)
    _close_answered(connection, ours, now)
    parked.join_parked(connection, together.provider_ids)
    circuit_breaker.answered(connection, now)
    for one in ours:
        answer_effects.from_answer(database, connection, one.posting.claim, one.answer.recipients, now)
    _charge(connection, ours, states)


def _charge(connection: Connection, ours: list[_Answered], states: dict[int, str]) -> None:
    """In the order of batches, for two workers may have the same ones."""
    with_budget = [(one.posting.claim, one) for one in ours if one.posting.claim.budget is not None]
    for claim, one in sorted(with_budget, key=lambda pair: pair[0].budget or (0, 0, "")):
        if claim.budget is not None:
            was = claim.budget[1] if states[claim.attempt_id] == "unknown" else 0
            budgets.charge_answer(connection, claim.budget, one.answer.recipients, was)


def _writes(connection: Connection, one: _Answered, held: int, now: datetime) -> RecordWrites:
    """`held`: how many messages are still `sending` under the attempt; all of them need no look at each."""
    claim, answers = one.posting.claim, one.answer.recipients
    writes = RecordWrites(claim, now)
    if held == len(claim.recipients) and all(answer.outcome == "accepted" for answer in answers.values()):
        for recipient, message_id in claim.recipients.items():
            writes.add_accepted(message_id, answers[recipient])
        return writes
    owned = _owned_rows(connection, claim)
    for recipient, message_id in owned.ids.items():
        writes.add_answer(owned.rows[message_id], answers[recipient])
    return writes


_CLOSE = (
    update(tables.attempts)
    .where(tables.attempts.c.id == bindparam("attempt_id"))
    .values(
        state="recorded",
        outcome="answered",
        finished_at=bindparam("new_finished_at"),
        http_status=bindparam("new_http_status"),
        provider_message=bindparam("new_provider_message"),
        answer=bindparam("new_answer"),
    )
)


def _close_answered(connection: Connection, ours: list[_Answered], now: datetime) -> None:
    rows = [
        {
            "attempt_id": one.posting.claim.attempt_id,
            "new_finished_at": now,
            "new_http_status": one.answer.http_status,
            "new_provider_message": one.answer.message,
            "new_answer": _answer_to_keep(one.answer) if one.posting.claim.is_trigger else None,
        }
        for one in ours
    ]
    connection.execute(_CLOSE, rows)


def record_failure(database: Database, posting: Posting, error: ProviderError) -> None:
    """The POST as a whole came to nothing, or to nothing that we know of."""
    with database.write() as connection:
        now = wall_clock(connection)
        attempt = connection.execute(_STATES, {"tokens": [posting.claim.token]}).one_or_none()
        if attempt is None:
            raise AttemptMissing
        if attempt.state not in ("posting", "unknown"):
            return
        posting = _under(connection, posting, attempt.id)
        owned = replace(_owned_rows(connection, posting.claim), was_lost=attempt.state == "unknown")
        writes = RecordWrites(posting.claim, now)
        for row in owned.rows.values():
            writes.add_failure(row, error)
        writes.execute(connection)
        _close_attempt(
            connection,
            posting.claim,
            now,
            outcome=error.outcome,
            reason=error.reason,
            http_status=error.http_status,
            provider_message=str(error),
        )
        answer_effects.from_failure(connection, posting, error, now)
        if error.outcome == "not_sent":
            daily_limits.take_back(connection, [attempt.counted])
        if posting.claim.budget is not None:
            _charge_failure(connection, posting.claim.budget, error, was_lost=owned.was_lost)


def _charge_failure(
    connection: Connection, budget: tuple[int, int, str], error: ProviderError, *, was_lost: bool
) -> None:
    batch_id, held_back, _ = budget
    if error.outcome == "unknown" and not was_lost:
        budgets.charge_loss(connection, batch_id, held_back)
    elif error.outcome != "unknown" and was_lost:
        budgets.charge_loss(connection, batch_id, -held_back)


def _owned_rows(connection: Connection, claim: Claim) -> _Owned:
    ours = (
        one_of(tables.messages.c.id, "ids"),
        tables.messages.c.attempt_id == claim.attempt_id,
        tables.messages.c.status.in_((statuses.SENDING, statuses.UNKNOWN)),
    )
    statement = select(
        tables.messages.c.id,
        tables.messages.c.recipient,
        tables.messages.c.status,
        tables.messages.c.tries,
        tables.messages.c.reason,
        tables.messages.c.created_at,
        tables.messages.c.on_unknown,
        tables.messages.c.unknown_resends,
    ).where(*ours)
    known = {"ids": list(claim.recipients.values())}
    rows = {row.id: row for row in connection.execute(statement.with_for_update(), known)}
    return _Owned({row.recipient: row.id for row in rows.values()}, rows)


def _close_attempt(connection: Connection, claim: Claim, now: datetime, **values: Any) -> None:
    connection.execute(
        update(tables.attempts)
        .where(tables.attempts.c.id == claim.attempt_id)
        .values(state="recorded", finished_at=now, **values)
    )


def _answer_to_keep(answer: SendAnswer) -> str:
    """For a trigger that is called again with its key: AT's words, and who they accepted or left open."""
    kept = {
        outcome: [one for one, theirs in answer.recipients.items() if theirs.outcome == outcome]
        for outcome in ("accepted", "unknown")
    }
    return json.dumps({"response": answer.raw, **kept})
