"""What a service has in its tables by the time reports come: a history, and messages that AT accepted."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert

from benchmarks.support.stores import opened, settle_statistics
from messaging import statuses
from messaging.callbacks import journal
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from messaging.storage.new_ids import reserve_ids

CHUNK = 1000


def fill(url: str, delivered: int, accepted: int) -> list[str]:
    """Messages that are delivered, with all that was written about them, and accepted ones; the latter's provider ids.

    Without a history PostgreSQL would plan for empty tables, and read through them once they are full.
    """
    ids = [f"ATXid_{secrets.token_hex(16)}" for _ in range(delivered + accepted)]
    with opened(url) as database:
        for chunk in _chunks(ids[:delivered]):
            _insert_delivered(database, chunk)
        for chunk in _chunks(ids[delivered:]):
            with database.write() as connection:
                _insert_messages(connection, chunk, statuses.ACCEPTED)
        settle_statistics(database)
    return ids[delivered:]


def report_body(provider_id: str) -> bytes:
    """As recorded from AT (docs/africastalking.md, 4b), with a good end."""
    phone = _phone(provider_id).replace("+", "%2B")
    return f"phoneNumber={phone}&retryCount=0&id={provider_id}&status=Success&networkCode=63902".encode()


def _phone(provider_id: str) -> str:
    return f"+2547{int(provider_id[-8:], 16) % 10**8:08d}"


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _insert_delivered(database: Database, provider_ids: Sequence[str]) -> None:
    now = utc_now()
    with database.write() as connection:
        numbers = _insert_messages(connection, provider_ids, statuses.DELIVERED)
        callback_numbers = reserve_ids(connection, tables.callbacks, len(provider_ids))
        joined = list(zip(numbers, callback_numbers, provider_ids, strict=True))
        connection.execute(
            insert(tables.callbacks), [_journal_row(number, one, now) for _, number, one in joined]
        )
        reports = [
            {
                "callback_id": callback_number,
                "message_id": number,
                "provider_message_id": provider_id,
                "word": "Success",
                "effect": "moved",
                "received_at": now,
            }
            for number, callback_number, provider_id in joined
        ]
        connection.execute(insert(tables.delivery_reports), reports)


def _journal_row(number: int, provider_id: str, now: datetime) -> dict[str, Any]:
    body = report_body(provider_id)
    return {
        "id": number,
        "kind": "report",
        "body": body,
        "digest": journal.digest_of("report", body),
        "count": 1,
        "outcome": journal.APPLIED,
        "received_at": now,
        "last_seen_at": now,
    }


def _insert_messages(connection: Connection, provider_ids: Sequence[str], status: str) -> Sequence[int]:
    now = utc_now()
    numbers = reserve_ids(connection, tables.messages, len(provider_ids))
    rows = [
        {
            "id": number,
            "recipient": _phone(provider_id),
            "text": "Your parcel is here",
            "origin": "api",
            "priority": 5,
            "status": status,
            "on_unknown": "hold",
            "due_at": now,
            "created_at": now,
            "sent_at": now,
            "provider_message_id": provider_id,
        }
        for number, provider_id in zip(numbers, provider_ids, strict=True)
    ]
    connection.execute(insert(tables.messages), rows)
    passed = [statuses.QUEUED, statuses.ACCEPTED]
    passed += [statuses.DELIVERED] if status == statuses.DELIVERED else []
    history = [
        {"message_id": number, "at": now, "status": one, "source": "benchmark"}
        for number in numbers
        for one in passed
    ]
    connection.execute(insert(tables.message_events), history)
    return numbers
