"""The way in: every text that this service will ever send becomes a row here first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, insert

from messaging import statuses
from messaging.access.actor import acting_name
from messaging.storage import tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import wake_after_commit
from messaging.storage.new_ids import reserve_ids
from utils.logs import request_id

# Lower goes first: a person waits for a reply, nobody waits for row 70,000 of a batch.
REPLY_PRIORITY = 0
SINGLE_PRIORITY = 1
BATCH_PRIORITY = 5

INSERT_CHUNK = 1000
_INSERT = insert(tables.messages)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """One text to one recipient, not yet written. `recipient` is E.164; `sender_id` None means AT's default."""

    recipient: str
    text: str
    sender_id: str | None = None
    origin: str = "api"
    priority: int = SINGLE_PRIORITY
    on_unknown: str = "hold"
    # By the wall clock; None: at once.
    due_at: datetime | None = None
    expires_at: datetime | None = None
    link_id: str | None = None
    batch_id: int | None = None
    inbound_id: int | None = None
    resend_of: int | None = None
    passes_opt_out: bool = False
    estimated_parts: int | None = None
    reference: str | None = None


def enqueue(
    connection: Connection,
    new_messages: Sequence[NewMessage],
    *,
    status: str = statuses.QUEUED,
    attempt_id: int | None = None,
) -> Sequence[int]:
    """Writes the rows into the caller's transaction and returns their ids, in order.

    The commit wakes a worker. The caller has validated recipients and text.
    """
    if not new_messages:
        return []
    now = wall_clock(connection)
    at_once = steady(connection, now)
    ids = reserve_ids(connection, tables.messages, len(new_messages))
    asked_by = {"created_by": acting_name(), "request_id": request_id.get()}
    told_by_batch = dict.fromkeys(asked_by)
    rows = (
        _row(new, message_id, now, at_once, status, attempt_id)
        | (told_by_batch if new.batch_id else asked_by)
        for new, message_id in zip(new_messages, ids, strict=True)
    )
    for chunk in _chunks(rows, INSERT_CHUNK):
        connection.execute(_INSERT, chunk)
    if status == statuses.QUEUED:
        wake_after_commit(connection)
    return ids


def _row(
    new: NewMessage, message_id: int, now: datetime, at_once: datetime, status: str, attempt_id: int | None
) -> dict[str, Any]:
    return {
        "id": message_id,
        "batch_id": new.batch_id,
        "recipient": new.recipient,
        "text": new.text,
        "sender_id": new.sender_id,
        "link_id": new.link_id,
        "origin": new.origin,
        "priority": new.priority,
        "status": status,
        "on_unknown": new.on_unknown,
        "due_at": new.due_at or at_once,
        "due_by_wall": new.due_at is not None,
        "expires_at": new.expires_at,
        "attempt_id": attempt_id,
        "inbound_id": new.inbound_id,
        "resend_of": new.resend_of,
        "passes_opt_out": new.passes_opt_out,
        "estimated_parts": new.estimated_parts,
        "reference": new.reference,
        "created_at": now,
    }


def _chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterable[list[dict[str, Any]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk
