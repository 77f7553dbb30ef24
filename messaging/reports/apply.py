"""Delivery reports of one group: find their messages, move them forward, keep every report in the history."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from messaging.messages.report_effects import PARKED, UNKNOWN_WORD
from messaging.reports import adoption, find, parked
from messaging.reports.message_state import DeliveryReport, FiledReport, MessageState, is_known_word
from messaging.reports.settle import settle


def apply_reports(connection: Connection, filed: Sequence[FiledReport], *, adopt: bool) -> None:
    """`adopt`: whether a report of an id we do not know may be taken by a message whose answer was lost."""
    found = find.by_provider_id(connection, {one.report.provider_message_id for one in filed})
    pairs = [(_pick(found.get(one.report.provider_message_id, ()), one.report), one) for one in filed]
    outcomes = settle(connection, pairs, "report")
    recipients = {one.filed.report.recipient for one in outcomes if one.effect == PARKED} - {None}
    if adopt and recipients:
        adoption.adopt(connection, [one for one in recipients if one is not None])


def apply_again(connection: Connection, filed: FiledReport, *, adopt: bool) -> bool:
    """For a replay: what this journal entry has not done yet; whether there was anything to do."""
    row = parked.row_of_callback(connection, filed)
    if row is None:
        apply_reports(connection, [filed], adopt=adopt)
        return True
    if row.effect != UNKNOWN_WORD or not is_known_word(row.word):
        return False
    owner = find.by_id(connection, [row.message_id])[row.message_id]
    settle(connection, [(owner, FiledReport.from_row(row))], "report")
    return True


def _pick(candidates: Sequence[MessageState], report: DeliveryReport) -> MessageState | None:
    same_number = (one for one in candidates if one.recipient == report.recipient)
    return next(same_number, candidates[0] if candidates else None)
