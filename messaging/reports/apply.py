"""Delivery reports of one group: find their messages, move them forward, keep every report in the history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from messaging.messages import report_effects, status_events
from messaging.messages.report_effects import MOVED, PARKED
from messaging.reports import adoption, message_state, parked, rows
from messaging.reports.message_state import DeliveryReport, FiledReport, MessageState
from messaging.storage.database import Database


def apply_reports(
    database: Database, connection: Connection, filed: Sequence[FiledReport], *, adopt: bool
) -> None:
    """`adopt`: whether a report of an id we do not know may be taken by a message whose answer was lost."""
    found = parked.find_messages(connection, {one.report.provider_message_id for one in filed})
    happened: list[status_events.Event] = []
    reported = [_apply(found, one, happened) for one in filed]
    touched = [one for candidates in found.values() for one in candidates]
    changed = message_state.changes(touched, filed[-1].received_at)
    rows.write(connection, changed, happened, reported)
    message_state.block_opted_out(database, connection, touched)
    recipients = {row["recipient"] for row in reported if row["effect"] == PARKED and row["recipient"]}
    if adopt and recipients:
        adoption.adopt(database, connection, recipients)


def _pick(candidates: Sequence[MessageState], report: DeliveryReport) -> MessageState:
    return next((one for one in candidates if one.recipient == report.recipient), candidates[0])


def _apply(
    found: dict[str, list[MessageState]], filed: FiledReport, happened: list[status_events.Event]
) -> dict[str, Any]:
    candidates = found.get(filed.report.provider_message_id)
    if not candidates:
        return rows.row_of(filed)
    state = _pick(candidates, filed.report)
    effect = state.take(filed.report, filed.callback_id, filed.received_at)
    if effect == MOVED:
        said = report_effects.words_of(filed.report.word, filed.report.failure_reason)
        event = status_events.Event(state.message_id, filed.received_at, state.status, "report", None, said)
        happened.append(event)
    return rows.row_of(filed, state.message_id, effect)
