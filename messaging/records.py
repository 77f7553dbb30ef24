"""The second small write: what a POST came to, for all of its recipients, in one transaction.

It is fenced by the attempt: only its own POST may write here, once, also after a sweep has called it unknown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from messaging import lessons, parked_reports, statuses
from messaging.claims import Claim
from messaging.database import Database, lock_keys
from messaging.models import attempts, messages
from messaging.postings import Posting
from messaging.record_writes import RecordWrites
from utils.errors import ProviderError
from utils.provider_answers import SendAnswer


@dataclass(frozen=True, slots=True)
class _Owned:
    """What the record may still settle: message ids by recipient, and what each row needs for its next step."""

    ids: dict[str, int]
    rows: dict[int, Any]


def record_answer(database: Database, posting: Posting, answer: SendAnswer) -> None:
    """AT answered and named its recipients; one that it did not name is unknown."""
    with database.write() as connection:
        now = database.now(connection)
        owned = _owned(connection, posting.claim)
        if owned is None:
            return
        writes = RecordWrites(posting.claim, now)
        for recipient, message_id in owned.ids.items():
            writes.add_answer(owned.rows[message_id], answer.recipients[recipient])
        if writes.provider_ids:
            lock_keys(connection, [f"report:{provider_id}" for provider_id in writes.provider_ids])
        writes.execute(connection)
        _close_attempt(
            connection,
            posting.claim,
            now,
            outcome="answered",
            http_status=answer.http_status,
            provider_message=answer.message,
            answer=_answer_to_keep(answer) if posting.claim.is_trigger else None,
        )
        parked_reports.join_parked(database, connection, writes.provider_ids)
        lessons.from_answer(database, connection, posting.claim, answer.recipients, now)


def record_failure(database: Database, posting: Posting, error: ProviderError) -> None:
    """The POST as a whole came to nothing, or to nothing that we know of."""
    with database.write() as connection:
        now = database.now(connection)
        owned = _owned(connection, posting.claim)
        if owned is None:
            return
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
        lessons.from_failure(connection, posting, error, now)


def _owned(connection: Connection, claim: Claim) -> _Owned | None:
    state = connection.execute(
        select(attempts.c.state).where(attempts.c.id == claim.attempt_id).with_for_update()
    ).scalar_one()
    if state not in ("posting", "unknown"):
        return None
    ours = (
        messages.c.id.in_(list(claim.recipients.values())),
        messages.c.attempt_id == claim.attempt_id,
        messages.c.status.in_((statuses.SENDING, statuses.UNKNOWN)),
    )
    statement = select(
        messages.c.id,
        messages.c.recipient,
        messages.c.tries,
        messages.c.reason,
        messages.c.created_at,
        messages.c.on_unknown,
        messages.c.unknown_resends,
    ).where(*ours)
    rows = {row.id: row for row in connection.execute(statement.with_for_update())}
    return _Owned({row.recipient: row.id for row in rows.values()}, rows)


def _close_attempt(connection: Connection, claim: Claim, now: datetime, **values: Any) -> None:
    connection.execute(
        update(attempts)
        .where(attempts.c.id == claim.attempt_id)
        .values(state="recorded", finished_at=now, **values)
    )


def _answer_to_keep(answer: SendAnswer) -> str:
    """For a trigger that is called again with its key: AT's words, and who they accepted or left open."""
    kept = {
        outcome: [one for one, theirs in answer.recipients.items() if theirs.outcome == outcome]
        for outcome in ("accepted", "unknown")
    }
    return json.dumps({"response": answer.raw, **kept})
