"""The facts that the operator's own system is told of, each written in the transaction that makes it one.

Nothing is written, and nothing read, unless FORWARD_URL is set (`Database.forwards`).

| type                   | told when                                                                   |
|------------------------|-----------------------------------------------------------------------------|
| `inbound.received`     | a text that we did not have was taken in                                    |
| `message.<status>`     | delivered, failed, expired, rejected, blocked, cancelled, no_report, unknown |
| `opt_out.recorded`, `opt_out.lifted` | the ledger got an entry                                       |
| `batch.finished`       | nothing of a batch is left to be sent                                       |

What a test key caused says `"test": true` beside its type.

Some of these statuses still move (`unknown`, `no_report`, `failed`, `expired` yield to a later report): then
there is a second event. Events may come more than once, with the same id, and in any order: `data.at` tells.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Row, Select, insert, select

from messaging import statuses
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import steady
from messaging.storage.database import FORWARDS, IS_TEST
from utils.json_shapes import money, rfc3339
from utils.provider_codes import network_name

WAITING = "waiting"
TOLD = statuses.SETTLED | {statuses.UNKNOWN}
CHUNK = 1000
_OPT_OUT_TYPES = {"stop": "opt_out.recorded", "start": "opt_out.lifted", "lift": "opt_out.lifted"}

_INSERT = insert(tables.forward_events)
_MESSAGES: Select[Any] = select(
    tables.messages.c.id,
    tables.messages.c.batch_id,
    tables.messages.c.recipient,
    tables.messages.c.reference,
    tables.messages.c.sender_id,
    tables.messages.c.origin,
    tables.messages.c.status,
    tables.messages.c.reason,
    tables.messages.c.provider_message_id,
    tables.messages.c.cost_text,
    tables.messages.c.parts,
    tables.messages.c.network,
    tables.messages.c.inbound_id,
    tables.messages.c.resend_of,
    tables.messages.c.created_at,
    tables.messages.c.sent_at,
).where(one_of(tables.messages.c.id, "ids"))
_INBOUND = (
    select(tables.inbound_messages)
    .where(one_of(tables.inbound_messages.c.id, "ids"))
    .order_by(tables.inbound_messages.c.id)
)
_BATCHES = select(tables.batches).where(one_of(tables.batches.c.id, "ids")).order_by(tables.batches.c.id)


class StatusChange(Protocol):
    """What `messaging.messages.status_events.Event` says of a message."""

    @property
    def message_id(self) -> int: ...
    @property
    def at(self) -> datetime: ...
    @property
    def status(self) -> str: ...
    @property
    def source(self) -> str: ...


def note_statuses(connection: Connection, happened: Sequence[StatusChange]) -> None:
    """The caller has written the messages' rows already, for they are read here."""
    if not _is_on(connection):
        return
    told = [one for one in happened if one.status in TOLD]
    for start in range(0, len(told), CHUNK):
        chunk = told[start : start + CHUNK]
        found = connection.execute(_MESSAGES, {"ids": [one.message_id for one in chunk]})
        rows = {row.id: row for row in found}
        _write(
            connection,
            ((f"message.{one.status}", one.at, _message(rows[one.message_id], one)) for one in chunk),
        )


def note_inbound(connection: Connection, inbound_ids: Sequence[int]) -> None:
    if _is_on(connection) and inbound_ids:
        rows = connection.execute(_INBOUND, {"ids": list(inbound_ids)}).all()
        _write(connection, (("inbound.received", row.received_at, _inbound(row)) for row in rows))


def note_opt_outs(connection: Connection, entries: Iterable[Mapping[str, Any]]) -> None:
    """Entries of the ledger, by its columns `phone`, `action`, `scope`, `sender_id`, `source` and `at`."""
    if _is_on(connection):
        _write(connection, ((_OPT_OUT_TYPES[one["action"]], one["at"], _opt_out(one)) for one in entries))


def note_batches(connection: Connection, batch_ids: Sequence[int], at: datetime) -> None:
    """Batches that have just finished; how their messages ended stands at `/v1/batches/{id}`."""
    if _is_on(connection) and batch_ids:
        rows = connection.execute(_BATCHES, {"ids": list(batch_ids)}).all()
        _write(connection, (("batch.finished", at, _batch(row, at)) for row in rows))


def _is_on(connection: Connection) -> bool:
    return bool(connection.info.get(FORWARDS))


def _write(connection: Connection, told: Iterable[tuple[str, datetime, dict[str, Any]]]) -> None:
    rows = list(_rows(connection, told))
    if rows:
        connection.execute(_INSERT, rows)


def _rows(
    connection: Connection, told: Iterable[tuple[str, datetime, dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    mark = {"test": True} if connection.info.get(IS_TEST) else {}
    for name, at, said in told:
        event = {"type": name, "timestamp": rfc3339(at), "data": said} | mark
        yield {
            "event_id": f"evt_{uuid.uuid4().hex}",
            "type": name,
            "body": json.dumps(event, ensure_ascii=False, separators=(",", ":")),
            "state": WAITING,
            "attempts": 0,
            "due_at": steady(connection, at),
            "created_at": at,
        }


def _message(row: Row[Any], change: StatusChange) -> dict[str, Any]:
    return {
        "id": row.id,
        "batch_id": row.batch_id,
        "to": row.recipient,
        "reference": row.reference,
        "sender_id": row.sender_id,
        "origin": row.origin,
        "status": change.status,
        # Of two changes in one transaction the row only explains the last.
        "reason": row.reason if row.status == change.status else None,
        "source": change.source,
        "provider_message_id": row.provider_message_id,
        "cost": money(row.cost_text),
        "parts": row.parts,
        "network": network_name(row.network),
        "inbound_id": row.inbound_id,
        "resend_of": row.resend_of,
        "created_at": rfc3339(row.created_at),
        "sent_at": rfc3339(row.sent_at),
        "at": rfc3339(change.at),
    }


def _inbound(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "from": row.sender,
        "to": row.recipient,
        "text": row.text,
        "meaning": row.meaning,
        "possible_opt_out": row.possible_opt_out,
        "link_id": row.link_id,
        "network": network_name(row.network),
        "provider_date": row.provider_date,
        "at": rfc3339(row.received_at),
    }


def _opt_out(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "phone": entry["phone"],
        "action": entry["action"],
        "scope": entry["scope"],
        "sender_id": entry["sender_id"] or None,
        "source": entry["source"],
        "at": rfc3339(entry["at"]),
    }


def _batch(row: Row[Any], at: datetime) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "total": row.total,
        "refused": row.refused,
        "duplicates": row.duplicates,
        "created_at": rfc3339(row.created_at),
        "at": rfc3339(at),
    }
