"""The ledger as every skin shows it, with the evidence for each entry, and an operator's own words in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, select

from messaging.access import actions
from messaging.consent import forgotten, ledger
from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.time_ranges import within
from utils import sender_ids
from utils.errors import NotFound
from utils.json_shapes import decode_cursor, page, rfc3339
from utils.phone_numbers import region_of

PAGE = 500
# Blocks that AT or a network reported stay there, whatever is lifted here (docs/africastalking.md, 5).
THEIRS = frozenset({ledger.CALLBACK, "refused_406", "report"})
DIAL = {
    "KE": (
        "*456*9#",
        "On Safaricom the recipient dials *456*9#, then Marketing messages, to activate this sender or all",
    )
}
ASK_THE_NETWORK = "Only the recipient can lift what their network blocks, by asking the network"


@dataclass(frozen=True, slots=True)
class LedgerFilters:
    """`phone` is E.164; `since` is included, `until` is not; `in_force`: only entries whose block stands."""

    phone: str | None = None
    sender_id: str | None = None
    source: str | None = None
    action: str | None = None
    in_force: bool = False
    since: datetime | None = None
    until: datetime | None = None


def list_entries(
    database: Database, filters: LedgerFilters, cursor: str | None = None, limit: int = 50
) -> dict[str, Any]:
    """A page, newest first. Raises InvalidInput for a bad cursor."""
    before = decode_cursor(cursor)
    with database.read() as connection:
        statement = _entries(_conditions(connection, filters), before, limit + 1)
        rows = connection.execute(statement).all()
    return page([entry_in_json(row) for row in rows], limit)


def all_entries(database: Database) -> Iterator[dict[str, Any]]:
    """The whole ledger, newest first, a page in memory at a time."""
    before: int | None = None
    while True:
        with database.read() as connection:
            rows = connection.execute(_entries([], before, PAGE)).all()
        if not rows:
            return
        yield from map(entry_in_json, rows)
        before = rows[-1].id


def _entries(conditions: list[ColumnElement[bool]], before: int | None, limit: int) -> Select[Any]:
    in_force = tables.suppressions.c.opt_out_id.is_not(None).label("in_force")
    evidence = (tables.callbacks.c.kind, tables.callbacks.c.digest, tables.callbacks.c.received_at)
    statement = (
        select(tables.opt_outs, in_force, *evidence)
        .outerjoin(tables.callbacks, tables.callbacks.c.id == tables.opt_outs.c.callback_id)
        .outerjoin(tables.suppressions, _is_its_block())
        .where(*conditions)
    )
    if before is not None:
        statement = statement.where(tables.opt_outs.c.id < before)
    return statement.order_by(tables.opt_outs.c.id.desc()).limit(limit)


def _is_its_block() -> ColumnElement[bool]:
    return (
        (tables.suppressions.c.phone == tables.opt_outs.c.phone)
        & (tables.suppressions.c.sender_id == tables.opt_outs.c.sender_id)
        & (tables.suppressions.c.opt_out_id == tables.opt_outs.c.id)
    )


def _conditions(connection: Connection, filters: LedgerFilters) -> list[ColumnElement[bool]]:
    sender_id = None if filters.sender_id is None else sender_ids.sender_key(filters.sender_id)
    equal = {
        tables.opt_outs.c.sender_id: sender_id,
        tables.opt_outs.c.source: filters.source,
        tables.opt_outs.c.action: filters.action,
    }
    conditions: list[ColumnElement[bool]] = [
        column == wanted for column, wanted in equal.items() if wanted is not None
    ]
    if filters.phone is not None:
        conditions.append(tables.opt_outs.c.phone.in_(_names_of(connection, filters.phone)))
    if filters.in_force:
        conditions.append(tables.suppressions.c.opt_out_id.is_not(None))
    return conditions + within(
        connection, tables.opt_outs, tables.opt_outs.c.at, filters.since, filters.until
    )


def entry_in_json(row: Row[Any]) -> dict[str, Any]:
    """`evidence`: the raw body in the journal, with the digest it was filed under."""
    evidence = None
    if row.digest is not None:
        evidence = {
            "callback_id": row.callback_id,
            "kind": row.kind,
            "digest": bytes(row.digest).hex(),
            "received_at": rfc3339(row.received_at),
        }
    return {
        "id": row.id,
        "at": rfc3339(row.at),
        "phone": row.phone,
        "action": row.action,
        "scope": row.scope,
        "sender_id": row.sender_id or None,
        "source": row.source,
        "detail": row.detail,
        "in_force": bool(row.in_force),
        "evidence": evidence,
    }


def stop(
    database: Database, phone: str, sender_id: str | None, reason: str | None, source: str
) -> dict[str, Any]:
    """An operator's word that `phone` (E.164) is not to be texted: by `sender_id`, or at all."""
    scope = "all" if sender_id is None else "sender"
    with database.write(settled=True) as connection:
        before = _blocks(connection, phone)
        added = ledger.record_stop(connection, phone, scope, sender_id, source, detail=reason)
        blocks = _blocks(connection, phone)
        _note(connection, "opt_out.add", phone, before, blocks)
        return {"phone": phone, "added": added, "blocks": blocks}


def lift(
    database: Database, phone: str, sender_id: str | None, reason: str | None, source: str
) -> dict[str, Any]:
    """Ends our blocks of `phone`, or the one for `sender_id`, and says what may still stand elsewhere.

    Raises NotFound where nothing blocks it.
    """
    with database.write(settled=True) as connection:
        before = _blocks(connection, phone)
        lifted = ledger.lift(connection, phone, sender_id, source=source, detail=reason)
        left = _blocks(connection, phone)
        if lifted:
            _note(connection, "opt_out.lift", phone, before, left)
    if not lifted:
        raise _nothing_to_lift(phone, sender_id, left)
    ended = [block for block in before if block not in left]
    is_theirs = any(block["source"] in THEIRS for block in ended)
    return {
        "phone": phone,
        "lifted": lifted,
        "blocks": left,
        "elsewhere": advice(phone) if is_theirs else None,
    }


def _note(connection: Connection, action: str, phone: str, before: list[Any], after: list[Any]) -> None:
    actions.note(connection, action, f"phone:{phone}", {"blocks": before}, {"blocks": after})


def _nothing_to_lift(phone: str, sender_id: str | None, left: list[dict[str, Any]]) -> NotFound:
    if not left:
        return NotFound(f"Nothing stops texts to {phone}", field="phone")
    return NotFound(
        f"{phone} is stopped, but not for the sender {sender_id} alone",
        field="sender_id",
        details={"blocks": left},
    )


def advice(phone: str) -> dict[str, str | None]:
    """What the recipient can do about a block of their network."""
    dial, sentence = DIAL.get(region_of(phone) or "", (None, ASK_THE_NETWORK))
    return {
        "dial": dial,
        "advice": f"{sentence}. Until then Africa's Talking may refuse the next text again.",
    }


def _blocks(connection: Connection, phone: str) -> list[dict[str, Any]]:
    statement = (
        select(tables.opt_outs)
        .join(tables.suppressions, _is_its_block())
        .where(tables.suppressions.c.phone.in_(_names_of(connection, phone)))
    )
    return [
        {
            "id": row.id,
            "scope": row.scope,
            "sender_id": row.sender_id or None,
            "source": row.source,
            "at": rfc3339(row.at),
        }
        for row in connection.execute(statement.order_by(tables.opt_outs.c.id))
    ]


def _names_of(connection: Connection, phone: str) -> list[str]:
    """Also the one under which a block stands of somebody who was forgotten: it keeps texts back all the same."""
    return [phone, *forgotten.names_of(connection, [phone])]
