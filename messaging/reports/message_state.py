"""What a delivery report makes of its message. Decided in memory; `find` reads, `write` writes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row

from messaging import statuses
from messaging.messages.report_effects import IGNORED, MOVED, NOTED, UNKNOWN_WORD
from utils.provider_codes import REPORT_REASONS, find_failure, read_report_status

_BAD = frozenset({statuses.FAILED, statuses.EXPIRED})


class DeliveryReport(NamedTuple):
    """A delivery report in our names. `word` and `failure_reason` are AT's; `recipient` E.164 where it is one."""

    provider_message_id: str
    word: str
    recipient: str | None = None
    failure_reason: str | None = None
    network: str | None = None
    retry_count: str | None = None


class FiledReport(NamedTuple):
    """A report whose body is in the journal. `row_id`: its row in the history of reports, where it has one."""

    callback_id: int
    received_at: datetime
    report: DeliveryReport
    row_id: int | None = None

    @classmethod
    def from_row(cls, row: Row[Any]) -> FiledReport:
        """As a row of `delivery_reports` keeps it."""
        report = DeliveryReport(*(getattr(row, name) for name in DeliveryReport._fields))
        return cls(row.callback_id, row.received_at, report, row.id)


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
        "sent_at",
        "status",
        "was",
    )

    def __init__(self, row: Row[Any]) -> None:
        self.message_id: int = row.id
        self.provider_message_id: str | None = row.provider_message_id
        self.recipient: str = row.recipient
        self.sender_id: str | None = row.sender_id
        self.was: str = row.status
        self.status: str = row.status
        self.reason: str | None = row.reason
        self.network: str | None = row.network
        self.sent_at: datetime | None = row.sent_at
        self.finished_at: datetime | None = row.finished_at
        self.has_changed = False
        self.opted_out_by: int | None = None

    def take(self, report: DeliveryReport, callback_id: int, at: datetime) -> str:
        """The effect of one report; only MOVED changed the status. `callback_id`: the evidence for a block."""
        self._note(report, callback_id)
        effect = self._move(report, at)
        # A message that only a report tells us of was sent all the same.
        if self.has_changed and self.sent_at is None:
            self.sent_at = at
        return effect

    def _move(self, report: DeliveryReport, at: datetime) -> str:
        reported = read_report_status(report.word)
        if reported is None:
            return UNKNOWN_WORD
        if reported == self.status:
            return NOTED
        if not statuses.may_follow_by_report(self.status, reported):
            return IGNORED
        self.status = reported
        self.reason = reason_of(report) if reported in _BAD else None
        self.finished_at = at if reported in statuses.SETTLED else None
        self.has_changed = True
        return MOVED

    def _note(self, report: DeliveryReport, callback_id: int) -> None:
        if report.network and not self.network:
            self.network = report.network
            self.has_changed = True
        if carries_block(report):
            self.opted_out_by = callback_id

    def is_late_for(self, filed: FiledReport) -> bool:
        """It was parked and found this message only now, or the message has become unknown since it came."""
        return filed.row_id is not None or self.was == statuses.UNKNOWN

    def time_of(self, filed: FiledReport) -> datetime:
        """When a report that is not late counts: when it came, but never before what it changes."""
        return max(one for one in (filed.received_at, self.sent_at, self.finished_at) if one is not None)


def carries_block(report: DeliveryReport) -> bool:
    """Whether the network says that the recipient opted out."""
    failure = find_failure(report.failure_reason) if report.failure_reason else None
    return failure is not None and failure.is_opt_out


def reason_of(report: DeliveryReport) -> str | None:
    """Our word for why it failed: AT's reason where we know it, else what the status word says by itself."""
    failure = find_failure(report.failure_reason or "")
    return failure.reason if failure else REPORT_REASONS.get(report.word.strip().casefold())


def is_known_word(word: str) -> bool:
    return read_report_status(word) is not None
