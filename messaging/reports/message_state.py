"""What delivery reports make of a message: read once, moved in memory, written back in one statement."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, select, update

from messaging import statuses
from messaging.consent import ledger
from messaging.messages.report_effects import IGNORED, MOVED, NOTED, UNKNOWN_WORD
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.database import Database
from utils.provider_codes import REPORT_REASONS, find_failure, read_report_status

_COLUMNS = (
    tables.messages.c.id,
    tables.messages.c.provider_message_id,
    tables.messages.c.recipient,
    tables.messages.c.sender_id,
    tables.messages.c.status,
    tables.messages.c.reason,
    tables.messages.c.network,
    tables.messages.c.finished_at,
)


def _locking(statement: Select[Any]) -> dict[str, Select[Any]]:
    """In the order of ids, so that two groups with messages in common cannot wait for each other.

    Not on SQLite: nobody else writes, and for the order's sake it would read the whole table by id.
    """
    return {"sqlite": statement, "postgresql": statement.order_by(tables.messages.c.id).with_for_update()}


_READ_BY_PROVIDER_ID = _locking(
    select(*_COLUMNS).where(one_of(tables.messages.c.provider_message_id, "provider_ids"))
)
_READ_BY_ID = _locking(select(*_COLUMNS).where(one_of(tables.messages.c.id, "ids")))
UPDATE = (
    update(tables.messages)
    .where(tables.messages.c.id == bindparam("message_id"), tables.messages.c.status == bindparam("was"))
    .values(
        status=bindparam("new_status"),
        reason=bindparam("new_reason"),
        network=bindparam("new_network"),
        finished_at=bindparam("new_finished_at"),
        # A message that only a report tells us of was sent all the same.
        sent_at=func.coalesce(
            tables.messages.c.sent_at, bindparam("now", type_=tables.messages.c.sent_at.type)
        ),
    )
)


class DeliveryReport(NamedTuple):
    """A delivery report in our names. `word` and `failure_reason` are AT's; `recipient` E.164 where it is one."""

    provider_message_id: str
    word: str
    recipient: str | None = None
    failure_reason: str | None = None
    network: str | None = None
    retry_count: str | None = None


class FiledReport(NamedTuple):
    """A report whose body is in the journal."""

    callback_id: int
    received_at: datetime
    report: DeliveryReport


class MessageState:
    """One message while reports are applied to it: `was` is what the database holds, `status` what it becomes."""

    __slots__ = (
        "finished_at",
        "has_changed",
        "message_id",
        "network",
        "opted_out_by",
        "provider_message_id",
        "reason",
        "recipient",
        "sender_id",
        "status",
        "was",
    )

    def __init__(self, row: Any) -> None:
        self.message_id: int = row.id
        self.provider_message_id: str | None = row.provider_message_id
        self.recipient: str = row.recipient
        self.sender_id: str | None = row.sender_id
        self.was: str = row.status
        self.status: str = row.status
        self.reason: str | None = row.reason
        self.network: str | None = row.network
        self.finished_at: datetime | None = row.finished_at
        self.has_changed = False
        self.opted_out_by: int | None = None

    def take(self, report: DeliveryReport, callback_id: int, now: datetime) -> str:
        """The effect of one report; only MOVED changed the status. `callback_id`: the evidence for a block."""
        self._note(report, callback_id)
        reported = read_report_status(report.word)
        if reported is None:
            return UNKNOWN_WORD
        if reported == self.status:
            return NOTED
        if not statuses.may_follow_by_report(self.status, reported):
            return IGNORED
        self.status = reported
        self.reason = reason_of(report) if reported in _BAD else None
        self.finished_at = now if reported in statuses.SETTLED else None
        self.has_changed = True
        return MOVED

    def _note(self, report: DeliveryReport, callback_id: int) -> None:
        if report.network and not self.network:
            self.network = report.network
            self.has_changed = True
        if report.failure_reason:
            failure = find_failure(report.failure_reason)
            if failure is not None and failure.is_opt_out:
                self.opted_out_by = callback_id


_BAD = frozenset({statuses.FAILED, statuses.EXPIRED})


def reason_of(report: DeliveryReport) -> str | None:
    """Our word for why it failed: AT's reason where we know it, else what the status word says by itself."""
    failure = find_failure(report.failure_reason or "")
    return failure.reason if failure else REPORT_REASONS.get(report.word.strip().casefold())


def is_known_word(word: str) -> bool:
    return read_report_status(word) is not None


def find_by_provider_id(connection: Connection, provider_ids: Iterable[str]) -> dict[str, list[MessageState]]:
    """Usually one message per id; should AT ever give an id twice, all that have it."""
    found: dict[str, list[MessageState]] = {}
    statement = _READ_BY_PROVIDER_ID[connection.dialect.name]
    for row in connection.execute(statement, {"provider_ids": list(provider_ids)}):
        found.setdefault(row.provider_message_id, []).append(MessageState(row))
    return found


def find_by_id(connection: Connection, ids: Iterable[int]) -> dict[int, MessageState]:
    rows = connection.execute(_READ_BY_ID[connection.dialect.name], {"ids": list(ids)})
    return {row.id: MessageState(row) for row in rows}


def save(
    database: Database, connection: Connection, touched: Collection[MessageState], now: datetime
) -> None:
    """Writes back what changed, and blocks those who opted out at the network."""
    changed = changes(touched, now)
    if changed:
        connection.execute(UPDATE, changed)
    block_opted_out(database, connection, touched)


def changes(touched: Iterable[MessageState], now: datetime) -> list[dict[str, Any]]:
    """The parameters of UPDATE, for each that is not as it was."""
    return [
        {
            "message_id": one.message_id,
            "was": one.was,
            "new_status": one.status,
            "new_reason": one.reason,
            "new_network": one.network,
            "new_finished_at": one.finished_at,
            "now": now,
        }
        for one in touched
        if one.has_changed
    ]


def block_opted_out(database: Database, connection: Connection, touched: Iterable[MessageState]) -> None:
    """For the sender id used: the network does not say whether it means more."""
    opted_out = [one for one in touched if one.opted_out_by is not None]
    if not opted_out:
        return
    ledger.lock_phones(connection, [one.recipient for one in opted_out])
    for one in opted_out:
        ledger.record_stop(
            database,
            connection,
            one.recipient,
            scope="sender",
            sender_id=one.sender_id,
            source="report",
            callback_id=one.opted_out_by,
            detail=f"message {one.message_id}",
        )
