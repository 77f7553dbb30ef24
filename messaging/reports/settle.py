"""Reports with the messages that they found: decides the new states and writes all of it, once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial

from sqlalchemy import Connection

from messaging import statuses
from messaging.consent import ledger
from messaging.messages import status_events
from messaging.messages.report_effects import MOVED, PARKED, words_of
from messaging.messages.status_counts import AFTER, Counted, Tally, delay_step, hour_of
from messaging.reports import write
from messaging.reports.message_state import FiledReport, MessageState
from messaging.reports.write import Outcome
from messaging.storage.clocks import wall_clock
from messaging.storage.database import after_commit

logger = logging.getLogger(__name__)
Pair = tuple[MessageState | None, FiledReport]


def settle(
    connection: Connection,
    pairs: Sequence[Pair],
    source: str,
    effect: str | None = None,
) -> list[Outcome]:
    """Applies reports, in the order given, to their messages; one without message is parked.

    `source` and `effect`: what the histories of messages and of reports shall say; without `effect`, what it did.
    """
    has_late = any(state is not None and state.is_late_for(filed) for state, filed in pairs)
    now = wall_clock(connection) if has_late else None
    outcomes: list[Outcome] = []
    happened: list[status_events.Event] = []
    tally = Tally()
    for state, filed in pairs:
        if state is None:
            outcomes.append(Outcome(filed, None, PARKED))
            continue
        at = now if now and state.is_late_for(filed) else state.time_of(filed)
        was, sent_at = state.status, state.sent_at
        took = state.take(filed.report, filed.callback_id, at)
        outcomes.append(Outcome(filed, state.message_id, effect or took))
        if took == MOVED:
            said = words_of(filed.report.word, filed.report.failure_reason)
            tally.add(_counted(state, was, sent_at, at))
            happened.append(status_events.Event(state.message_id, at, state.status, source, None, said))
    touched = {state.message_id: state for state, _ in pairs if state is not None}.values()
    write.write(connection, [one for one in touched if one.has_changed], happened, outcomes, tally)
    _block_opted_out(connection, touched)
    after_commit(connection, partial(_log, happened))
    return outcomes


def _log(happened: Sequence[status_events.Event]) -> None:
    """Each message's id, for whoever follows it through the log."""
    ids: dict[str, list[int]] = {}
    for event in happened:
        ids.setdefault(event.status, []).append(event.message_id)
    for status, message_ids in ids.items():
        logger.info("reports moved messages", extra={"status": status, "message_ids": message_ids})


def _counted(state: MessageState, was: str, sent_at: datetime | None, at: datetime) -> Counted:
    reason, delay = state.reason or "", 0
    if state.status == statuses.DELIVERED:
        reason = "" if was == statuses.ACCEPTED else AFTER + was
        delay = 0 if sent_at is None else delay_step(at - sent_at)
    hour, sender_id, network = hour_of(at), state.sender_id or "", state.network or ""
    return Counted(hour, state.status, reason, sender_id, network, delay=delay)


def _block_opted_out(connection: Connection, touched: Iterable[MessageState]) -> None:
    """For the sender id used: the network does not say whether it means more."""
    opted_out = [one for one in touched if one.opted_out_by is not None]
    if not opted_out:
        return
    ledger.lock_phones(connection, [one.recipient for one in opted_out])
    for one in opted_out:
        ledger.record_stop(
            connection,
            one.recipient,
            scope="sender",
            sender_id=one.sender_id,
            source="report",
            callback_id=one.opted_out_by,
            detail=f"message {one.message_id}",
        )
