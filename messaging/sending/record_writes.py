"""What each recipient's answer makes of its message, gathered into few statements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, text, update

from messaging import statuses
from messaging.messages import status_events
from messaging.messages.status_counts import Counted, Tally, hour_of
from messaging.messages.unknown_outcomes import DECIDED
from messaging.sending import retry_policy
from messaging.sending.claim import Claim
from messaging.storage import tables
from messaging.storage.bulk import as_array, as_json_rows, as_stored
from messaging.storage.clocks import steady
from messaging.storage.database import wake_after_commit
from utils.errors import ProviderError
from utils.money import Money
from utils.provider_answers import RecipientAnswer

_ACCEPT = """
    UPDATE messages SET status = 'accepted', reason = NULL, provider_message_id = answer.provider_id,
        cost_text = answer.cost, cost_micros = answer.micros, cost_currency = answer.currency,
        parts = answer.parts, sent_at = ?
    FROM (SELECT json_extract(value, '$[0]') AS provider_id, json_extract(value, '$[1]') AS cost,
                 json_extract(value, '$[2]') AS micros, json_extract(value, '$[3]') AS currency,
                 json_extract(value, '$[4]') AS parts, json_extract(value, '$[5]') AS id
          FROM json_each(?)) AS answer
    WHERE messages.id = answer.id
"""
# One statement for all: 500 of their own take PostgreSQL three times as long.
_ACCEPT_ALL = text(
    """
    UPDATE messages SET status = 'accepted', reason = NULL, provider_message_id = answer.provider_id,
        cost_text = answer.cost, cost_micros = answer.micros, cost_currency = answer.currency,
        parts = answer.parts, sent_at = :at
    FROM unnest(CAST(:provider_ids AS text[]), CAST(:costs AS text[]), CAST(:micros AS bigint[]),
                CAST(:currencies AS text[]), CAST(:parts AS smallint[]), CAST(:ids AS bigint[]))
        AS answer(provider_id, cost, micros, currency, parts, id)
    WHERE messages.id = answer.id
    """
)
_ARRAYS = ("provider_ids", "costs", "micros", "currencies", "parts", "ids")


def _accept(connection: Connection, rows: Sequence[tuple[Any, ...]], at: datetime) -> None:
    """`rows`: provider id, cost as written, micros, currency, parts, message id."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_ACCEPT, (as_stored(connection, at), as_json_rows(rows)))
    else:
        arrays = zip(_ARRAYS, map(as_array, zip(*rows, strict=True)), strict=True)
        connection.execute(_ACCEPT_ALL, {**dict(arrays), "at": at})


_SETTLE = (
    update(tables.messages)
    .where(tables.messages.c.id == bindparam("message_id"))
    .values(
        status=bindparam("new_status"),
        reason=bindparam("new_reason"),
        finished_at=bindparam("new_finished_at"),
    )
)
# AT named an id and no outcome (RiskHold, an error at the gateway): its report finds the message by that.
_NAME = (
    update(tables.messages)
    .where(tables.messages.c.id == bindparam("message_id"))
    .values(provider_message_id=bindparam("new_provider_id"))
)
_REQUEUE = (
    update(tables.messages)
    .where(tables.messages.c.id == bindparam("message_id"))
    .values(
        status=statuses.QUEUED,
        reason=bindparam("new_reason"),
        tries=bindparam("new_tries"),
        unknown_resends=bindparam("new_unknown_resends"),
        due_at=bindparam("new_due_at"),
        due_by_wall=bindparam("new_due_by_wall"),
        attempt_id=None,
    )
)


class RecordWrites:
    """The rows of one record, by statement.

    `row` is a message: id, recipient, tries, reason, created_at, on_unknown, unknown_resends.
    """

    def __init__(self, claim: Claim, now: datetime) -> None:
        self.claim = claim
        self.now = now
        self.provider_ids: dict[str, int] = {}
        self._cost: Money | None = None
        self._billed: tuple[int | None, str | None] = (None, None)
        self._accepted: list[tuple[Any, ...]] = []
        self._settled: list[dict[str, Any]] = []
        self._named: list[dict[str, Any]] = []
        self._requeued: list[dict[str, Any]] = []
        self._events: list[status_events.Event] = []
        self._tally = Tally()
        self._hour = hour_of(now)

    def add_accepted(self, message_id: int, answer: RecipientAnswer) -> None:
        """All that an acceptance needs of its message is the id."""
        self._accept(message_id, answer)

    def add_answer(self, row: Any, answer: RecipientAnswer) -> None:
        if answer.outcome == "accepted":
            self._accept(row.id, answer)
        elif answer.outcome == "rejected":
            self._settle(row.id, statuses.REJECTED, answer.reason or "rejected", _words(answer))
        elif answer.outcome == "not_sent":
            self._not_sent(row, answer.reason or "not_sent", is_paused=bool(answer.pauses))
        else:
            self._unknown(row, answer.reason or "unknown", _words(answer), answer.provider_message_id)

    def add_failure(self, row: Any, error: ProviderError) -> None:
        if error.outcome == "unknown":
            self._unknown(row, error.reason, None)
        elif error.pauses:
            self._not_sent(row, error.reason, is_paused=True)
        elif error.retryable:
            self._not_sent(row, error.reason)
        else:
            status = statuses.FAILED if self.claim.is_trigger else statuses.REJECTED
            self._settle(row.id, status, error.reason, None)

    def take_over(self, other: RecordWrites) -> None:
        """The rows of another record, to be written in the same statements."""
        self.provider_ids |= other.provider_ids
        self._accepted += other._accepted
        self._settled += other._settled
        self._named += other._named
        self._requeued += other._requeued
        self._events += other._events
        self._tally.take_over(other._tally)

    def execute(self, connection: Connection) -> None:
        if self._accepted:
            _accept(connection, self._accepted, self.now)
        for statement, rows in (
            (_SETTLE, self._settled),
            (_NAME, self._named),
            (_REQUEUE, [_by_its_clock(connection, row) for row in self._requeued]),
        ):
            if rows:
                connection.execute(statement, rows)
        if self._requeued:
            wake_after_commit(connection)
        status_events.record(connection, self._events, self._tally)

    def _accept(self, message_id: int, answer: RecipientAnswer) -> None:
        if answer.cost is not self._cost:
            # The recipients of one POST share a handful of prices.
            self._cost, self._billed = answer.cost, _in_micros(answer.cost)
        micros, currency = self._billed
        self._accepted.append(
            (answer.provider_message_id, answer.cost_raw, micros, currency, answer.parts, message_id)
        )
        self._count(statuses.ACCEPTED, "", currency or "", answer.parts or 0, micros or 0)
        self._happened(message_id, statuses.ACCEPTED, _words(answer))
        if answer.provider_message_id:
            self.provider_ids[answer.provider_message_id] = message_id

    def _settle(self, message_id: int, status: str, reason: str, detail: str | None) -> None:
        self._settled.append(
            {
                "message_id": message_id,
                "new_status": status,
                "new_reason": reason,
                "new_finished_at": None if status == statuses.UNKNOWN else self.now,
            }
        )
        self._count(status, reason)
        self._happened(message_id, status, detail or reason)

    def _not_sent(self, row: Any, reason: str, *, is_paused: bool = False) -> None:
        """Back into the queue; a pause is not the recipient's fault and costs no try. A trigger's caller retries."""
        tries = row.tries if is_paused else row.tries + 1
        if self.claim.is_trigger or row.reason in DECIDED:
            self._settle(row.id, statuses.FAILED, reason, "not sent")
        elif is_paused:
            self._requeue(row, reason, tries, row.unknown_resends, self.now)
        elif retry_policy.is_given_up(row.created_at, self.now, tries, reason):
            self._settle(row.id, statuses.FAILED, reason, "not sent")
        else:
            self._requeue(row, reason, tries, row.unknown_resends, self._next_try(row, reason, tries))

    def _next_try(self, row: Any, reason: str, tries: int) -> datetime:
        if reason == retry_policy.DO_NOT_DISTURB:
            return retry_policy.end_of_curfew(self.now, row.recipient)
        return self.now + retry_policy.wait_before_try(tries)

    def _unknown(self, row: Any, reason: str, detail: str | None, provider_id: str | None = None) -> None:
        """Never sent again by itself, but where its sender accepted a possible duplicate: then once."""
        is_decided = row.reason in DECIDED
        may_resend = row.on_unknown == "resend" and not row.unknown_resends and not self.claim.is_trigger
        if may_resend and not is_decided:
            self._requeue(row, reason, row.tries + 1, 1, self.now + timedelta(seconds=1))
            return
        given_up = row.on_unknown == "fail" or row.unknown_resends
        why = row.reason if is_decided else "given_up" if given_up else reason
        self._settle(row.id, statuses.UNKNOWN, why, detail or reason)
        if provider_id is not None:
            self._named.append({"message_id": row.id, "new_provider_id": provider_id})
            self.provider_ids[provider_id] = row.id

    def _requeue(self, row: Any, reason: str, tries: int, unknown_resends: int, due_at: datetime) -> None:
        self._requeued.append(
            {
                "message_id": row.id,
                "new_reason": reason,
                "new_tries": tries,
                "new_unknown_resends": unknown_resends,
                "new_due_at": due_at,
                # The end of a curfew is an hour of the day; a backoff is a duration.
                "new_due_by_wall": reason == retry_policy.DO_NOT_DISTURB,
            }
        )
        self._count(statuses.QUEUED, reason)
        self._happened(row.id, statuses.QUEUED, reason)

    def _count(self, status: str, reason: str, currency: str = "", parts: int = 0, micros: int = 0) -> None:
        sender_id = self.claim.sender_id or ""
        self._tally.add(Counted(self._hour, status, reason, sender_id, "", currency), 1, parts, micros)

    def _happened(self, message_id: int, status: str, detail: str | None) -> None:
        self._events.append(
            status_events.Event(message_id, self.now, status, "provider", self.claim.attempt_id, detail)
        )


def _by_its_clock(connection: Connection, row: dict[str, Any]) -> dict[str, Any]:
    return row if row["new_due_by_wall"] else row | {"new_due_at": steady(connection, row["new_due_at"])}


def _in_micros(money: Money | None) -> tuple[int | None, str | None]:
    return (None, None) if money is None else (money.micros, money.currency)


def _words(answer: RecipientAnswer) -> str | None:
    if answer.status_code is None or answer.status_word is None:
        said = answer.status_word if answer.status_code is None else str(answer.status_code)
        return said or None
    return f"{answer.status_code} {answer.status_word}"
