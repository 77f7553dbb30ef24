"""Who may not be texted: an append-only ledger of what people and networks said, and the blocks now in force.

A block has a key: a phone, and a sender id or nothing (everything we send). START lifts what STOP has
blocked and nothing else: a block that AT or the network reported is not ours to lift by a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, exists, insert, select

from messaging.consent import forgotten
from messaging.forwarding import events
from messaging.storage import tables
from messaging.storage.bulk import insert_for, one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import lock_keys
from utils.sender_ids import sender_key

EVERYTHING = ""
KEYWORD = "keyword"
CALLBACK = "callback"
# What is no number at all is blocked as the string it is, where it can be.
LONGEST_PHONE = 20

_SUPPRESSED = (
    select(tables.suppressions.c.phone)
    .where(
        one_of(tables.suppressions.c.phone, "phones"), one_of(tables.suppressions.c.sender_id, "sender_ids")
    )
    .distinct()
)
_SUPPRESSED_BESIDE_KEYWORD = _SUPPRESSED.join_from(
    tables.suppressions, tables.opt_outs, tables.opt_outs.c.id == tables.suppressions.c.opt_out_id
).where(tables.opt_outs.c.source != KEYWORD)
_IN_FORCE = exists().where(
    tables.suppressions.c.phone == tables.opt_outs.c.phone,
    tables.suppressions.c.sender_id == tables.opt_outs.c.sender_id,
    tables.suppressions.c.opt_out_id == tables.opt_outs.c.id,
)

# AT's callback held no number that could be read: nobody is kept from texting the person by it.
_WITHOUT_NUMBER = and_(
    tables.suppressions.c.phone.not_like("+%"), tables.suppressions.c.phone.not_like(f"{forgotten.MARK}%")
)


class LedgerEntry(NamedTuple):
    """`action`: stop, start or lift. `sender_id`: upper case, empty for scope `all`."""

    id: int
    phone: str
    action: str
    scope: str
    sender_id: str
    source: str
    callback_id: int | None
    detail: str | None
    at: datetime
    is_in_force: bool


def record_stop(
    connection: Connection,
    phone: str,
    scope: str,
    sender_id: str | None,
    source: str,
    callback_id: int | None = None,
    detail: str | None = None,
) -> bool:
    """Blocks `phone` (E.164) for everything (scope `all`) or for one sender id (scope `sender`).

    Returns False where the block stands already; the ledger keeps once for each source that it was said again,
    for whoever lifts the block should know of all. Only a block by STOP gives way to one from elsewhere: from
    then on START does not lift it.
    """
    key = EVERYTHING if scope == "all" else sender_key(sender_id)
    _lock(connection, phone)
    block = next((row for row in _blocks(connection, phone) if row.sender_id == key), None)
    if block is not None and _is_told(connection, block, source):
        return False
    now = wall_clock(connection)
    said = {"phone": phone, "action": "stop", "scope": scope, "sender_id": key, "source": source, "at": now}
    events.note_opt_outs(connection, [said])
    entry = insert(tables.opt_outs).values(**said, callback_id=callback_id, detail=detail)
    entry_id = connection.execute(entry.returning(tables.opt_outs.c.id)).scalar_one()
    if block is not None and block.source != KEYWORD:
        return False
    block = insert_for(connection, tables.suppressions).values(
        phone=phone, sender_id=key, opt_out_id=entry_id
    )
    connection.execute(
        block.on_conflict_do_update(
            index_elements=[tables.suppressions.c.phone, tables.suppressions.c.sender_id],
            set_={"opt_out_id": entry_id},
        )
    )
    return True


def _is_told(connection: Connection, block: Any, source: str) -> bool:
    """Whether this source has already said what the block says, since it stands."""
    since = (
        tables.opt_outs.c.id >= block.opt_out_id,
        tables.opt_outs.c.source == source,
        tables.opt_outs.c.action == "stop",
    )
    same = (tables.opt_outs.c.phone == block.phone, tables.opt_outs.c.sender_id == block.sender_id)
    return bool(connection.execute(select(exists().where(*same, *since))).scalar())


def record_start(
    connection: Connection,
    phone: str,
    sender_id: str | None,
    callback_id: int | None = None,
) -> int:
    """Lifts what STOP has blocked, for everything and for the number that START was texted to; how many blocks."""
    keys = (EVERYTHING, sender_key(sender_id))
    _lock(connection, phone)
    ours = [row for row in _blocks(connection, phone) if row.source == KEYWORD and row.sender_id in keys]
    return _end(connection, phone, ours, "start", KEYWORD, callback_id, None)


def lift(
    connection: Connection,
    phone: str,
    sender_id: str | None = None,
    *,
    source: str,
    detail: str | None = None,
) -> int:
    """An operator's word: ends every block of `phone`, or the one for `sender_id`; how many. AT's own stays."""
    _lock(connection, phone)
    wanted = None if sender_id is None else sender_key(sender_id)
    ended = [row for row in _blocks(connection, phone) if wanted is None or row.sender_id == wanted]
    return _end(connection, phone, ended, "lift", source, None, detail)


def suppressed(
    connection: Connection, phones: Sequence[str], sender_id: str | None, *, confirms_stop: bool = False
) -> set[str]:
    """Those of `phones` who must not get a text from `sender_id` (None: AT's default sender).

    `confirms_stop`: the text answers a STOP, and so passes what STOP has blocked, but nothing else.
    """
    if not phones:
        return set()
    hidden = forgotten.names_of(connection, phones)
    wanted = {"phones": [*phones, *hidden], "sender_ids": [EVERYTHING, sender_key(sender_id)]}
    statement = _SUPPRESSED_BESIDE_KEYWORD if confirms_stop else _SUPPRESSED
    return {hidden.get(one, one) for one in connection.execute(statement, wanted).scalars()}


def entries(
    connection: Connection, phone: str | None = None, before_id: int | None = None, limit: int = 50
) -> list[LedgerEntry]:
    """The ledger, newest first."""
    statement = select(tables.opt_outs, _IN_FORCE.label("is_in_force"))
    if phone is not None:
        statement = statement.where(tables.opt_outs.c.phone == phone)
    if before_id is not None:
        statement = statement.where(tables.opt_outs.c.id < before_id)
    rows = connection.execute(statement.order_by(tables.opt_outs.c.id.desc()).limit(limit))
    return [LedgerEntry(**{**row._mapping, "is_in_force": bool(row.is_in_force)}) for row in rows]


def without_number(connection: Connection, limit: int) -> list[tuple[int, str]]:
    """Blocks of what is no phone number, newest first: the ledger entry's id and the string."""
    statement = select(tables.suppressions.c.opt_out_id, tables.suppressions.c.phone).where(_WITHOUT_NUMBER)
    rows = connection.execute(statement.order_by(tables.suppressions.c.opt_out_id.desc()).limit(limit))
    return [(row.opt_out_id, row.phone) for row in rows]


def name_of_no_number(sender: str) -> str:
    """By which a sender that is no number is blocked: only numbers begin with a plus, and it has to fit."""
    return (sender.lstrip("+") or sender)[:LONGEST_PHONE]


def lock_phones(connection: Connection, phones: Iterable[str]) -> None:
    """For a caller that will change several phones' blocks: all locks at once, so that none waits crosswise."""
    lock_keys(connection, [f"opt_out:{phone}" for phone in phones])


def _lock(connection: Connection, phone: str) -> None:
    lock_phones(connection, [phone])


def _blocks(connection: Connection, phone: str) -> Sequence[Any]:
    statement = (
        select(
            tables.suppressions.c.phone,
            tables.suppressions.c.sender_id,
            tables.suppressions.c.opt_out_id,
            tables.opt_outs.c.source,
            tables.opt_outs.c.scope,
        )
        .join(tables.opt_outs, tables.opt_outs.c.id == tables.suppressions.c.opt_out_id)
        .where(tables.suppressions.c.phone.in_((phone, *forgotten.names_of(connection, [phone]))))
    )
    return connection.execute(statement).all()


def _end(
    connection: Connection,
    phone: str,
    blocks: Sequence[Any],
    action: str,
    source: str,
    callback_id: int | None,
    detail: str | None,
) -> int:
    now = wall_clock(connection)
    for block in blocks:
        connection.execute(
            delete(tables.suppressions).where(
                and_(
                    tables.suppressions.c.phone == block.phone,
                    tables.suppressions.c.sender_id == block.sender_id,
                )
            )
        )
        entry = insert(tables.opt_outs).values(
            phone=block.phone,
            action=action,
            scope=block.scope,
            sender_id=block.sender_id,
            source=source,
            callback_id=callback_id,
            detail=detail,
            at=now,
        )
        connection.execute(entry)
    common = {"action": action, "source": source, "at": now}
    # Who was forgotten has a hash in the ledger, which tells a receiver nothing.
    told = [
        {"phone": phone, "scope": block.scope, "sender_id": block.sender_id, **common} for block in blocks
    ]
    events.note_opt_outs(connection, told)
    return len(blocks)
