"""Who agreed to be texted: an append-only ledger with the words that the person agreed to, and what is in force now.

A consent has a key as a block has: a phone, and a sender id or nothing (everything we send). A STOP withdraws none, and
still blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, update

from messaging.access import actions
from messaging.consent import forgotten
from messaging.consent.ledger import EVERYTHING
from messaging.storage import tables
from messaging.storage.bulk import insert_for, one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database, lock_keys
from messaging.storage.identity import require_identity
from utils.errors import NotFound
from utils.json_shapes import decode_cursor, page, rfc3339
from utils.sender_ids import promotional_senders, sender_key, validate_sender
from utils.settings import Settings

GIVE, WITHDRAW = "give", "withdraw"
PAGE = 500
# In place of a source, which may name the person.
FORGOTTEN = "forgotten"

_CONSENTED = (
    select(tables.consents_in_force.c.phone)
    .where(
        one_of(tables.consents_in_force.c.phone, "phones"),
        one_of(tables.consents_in_force.c.sender_id, "sender_ids"),
    )
    .distinct()
)
_IS_IN_FORCE = (
    (tables.consents_in_force.c.phone == tables.consents.c.phone)
    & (tables.consents_in_force.c.sender_id == tables.consents.c.sender_id)
    & (tables.consents_in_force.c.consent_id == tables.consents.c.id)
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a person agreed to, and how that is known. `source`: where it was said, `signup form` or `api`."""

    source: str
    purpose: str | None = None
    wording: str | None = None
    wording_version: str | None = None
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class ConsentRule:
    """Whose texts need a consent: those of promotional senders, or (REQUIRE_CONSENT) of all."""

    is_for_all: bool = False
    promotional: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings) -> ConsentRule:
        return cls(settings.require_consent, promotional_senders(settings.sender_classes))

    def applies_to(self, sender_id: str | None) -> bool:
        return self.is_for_all or bool(self.promotional and sender_key(sender_id) in self.promotional)

    def lacking(self, connection: Connection, phones: Sequence[str], sender_id: str | None) -> set[str]:
        """Those of `phones` who must not be texted because they did not agree. Asks nothing where none need to."""
        if not self.applies_to(sender_id):
            return set()
        return set(phones) - has_consent(connection, phones, sender_id)


NO_RULE = ConsentRule()


def has_consent(connection: Connection, phones: Sequence[str], sender_id: str | None) -> set[str]:
    """Those of `phones` who agreed to texts from `sender_id` (None: AT's default sender)."""
    if not phones:
        return set()
    asked = {"phones": list(phones), "sender_ids": [EVERYTHING, sender_key(sender_id)]}
    return set(connection.execute(_CONSENTED, asked).scalars())


def give(database: Database, phone: str, sender_id: str | None, terms: Terms) -> dict[str, Any]:
    """`phone` (E.164) agrees to texts from `sender_id`, or to all. Said again in the same words, nothing is added.

    Raises InvalidInput for a sender id that cannot be one.
    """
    validate_sender(sender_id)
    key = EVERYTHING if sender_id is None else sender_key(sender_id)
    with database.write(settled=True) as connection:
        _lock(connection, phone)
        before = _in_force(connection, phone)
        standing = next((row for row in before if row.sender_id == key), None)
        is_new = standing is None or terms_of(standing) != terms
        if is_new:
            put_in_force(connection, [(phone, key, _add(connection, phone, GIVE, key, terms))])
        after = _in_force(connection, phone)
        if is_new:
            _note(connection, "consent.give", phone, before, after)
    return {"phone": phone, "added": is_new, "consents": _in_json(after)}


def join(connection: Connection, phone: str, sender_id: str | None, terms: Terms) -> bool:
    """As `give`, for a text by which `phone` agrees: the caller has its lock, and nobody's action is written down.
    Said again it is no news, though each text is evidence of its own; returns False then."""
    key = EVERYTHING if sender_id is None else sender_key(sender_id)
    standing = next((row for row in _in_force(connection, phone) if row.sender_id == key), None)
    if standing is not None and replace(terms_of(standing), evidence=terms.evidence) == terms:
        return False
    put_in_force(connection, [(phone, key, _add(connection, phone, GIVE, key, terms))])
    return True


def withdraw(database: Database, phone: str, sender_id: str | None, terms: Terms) -> dict[str, Any]:
    """Ends every consent of `phone`, or the one for `sender_id`. Raises NotFound where there is none."""
    wanted = None if sender_id is None else sender_key(sender_id)
    with database.write(settled=True) as connection:
        _lock(connection, phone)
        before = _in_force(connection, phone)
        ended = [row for row in before if wanted in (None, row.sender_id)]
        for row in ended:
            _add(connection, phone, WITHDRAW, row.sender_id, terms)
            connection.execute(_end(phone, row.sender_id))
        after = _in_force(connection, phone)
        if ended:
            _note(connection, "consent.withdraw", phone, before, after)
    if not ended:
        raise _nothing_to_withdraw(phone, sender_id, after)
    return {"phone": phone, "withdrawn": len(ended), "consents": _in_json(after)}


def forget(database: Database, phone: str) -> None:
    """Ends what `phone` agreed to and hides who it was; that somebody agreed, and when, stays."""
    with database.write(settled=True) as connection:
        _lock(connection, phone)
        standing, ledger = tables.consents_in_force, tables.consents
        connection.execute(delete(standing).where(standing.c.phone == phone))
        theirs = update(ledger).where(ledger.c.phone == phone)
        hidden = forgotten.name_of(require_identity(connection, wall_clock(connection)), phone)
        blank = dict.fromkeys(("purpose", "wording", "wording_version", "evidence"))
        connection.execute(theirs.values(phone=hidden, source=FORGOTTEN, **blank))


def list_consents(
    database: Database,
    phone: str | None = None,
    *,
    in_force: bool = False,
    cursor: str | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """A page of the ledger, newest first. Raises InvalidInput for a bad cursor."""
    before = decode_cursor(cursor)
    statement = _entries()
    if phone is not None:
        statement = statement.where(tables.consents.c.phone == phone)
    if in_force:
        statement = statement.where(tables.consents_in_force.c.consent_id.is_not(None))
    if before is not None:
        statement = statement.where(tables.consents.c.id < before)
    with database.read() as connection:
        rows = connection.execute(statement.order_by(tables.consents.c.id.desc()).limit(limit + 1)).all()
    return page(_in_json(rows), limit)


def all_entries(database: Database) -> Iterator[dict[str, Any]]:
    """The whole ledger, newest first, a page in memory at a time."""
    cursor: str | None = None
    while True:
        found = list_consents(database, cursor=cursor, limit=PAGE)
        yield from found["items"]
        cursor = found["next_cursor"]
        if cursor is None:
            return


def _entries() -> Select[Any]:
    standing = tables.consents_in_force.c.consent_id
    return select(tables.consents, standing.is_not(None).label("in_force")).outerjoin(
        tables.consents_in_force, _IS_IN_FORCE
    )


def _in_force(connection: Connection, phone: str) -> Sequence[Any]:
    standing = tables.consents_in_force.c.consent_id.is_not(None)
    statement = _entries().where(tables.consents.c.phone == phone, standing)
    return connection.execute(statement.order_by(tables.consents.c.id)).all()


def lock_phones(connection: Connection, phones: Iterable[str]) -> None:
    lock_keys(connection, [f"consent:{phone}" for phone in phones])


def _lock(connection: Connection, phone: str) -> None:
    lock_phones(connection, [phone])


def _add(connection: Connection, phone: str, action: str, sender_id: str, terms: Terms) -> int:
    row = {"phone": phone, "action": action, "sender_id": sender_id, "at": wall_clock(connection)}
    entry = insert(tables.consents).values(**row, **asdict(terms))
    entry_id: int = connection.execute(entry.returning(tables.consents.c.id)).scalar_one()
    return entry_id


def put_in_force(connection: Connection, entries: Sequence[tuple[str, str, int]]) -> None:
    """Each a phone, a key of a sender and the id of the ledger's entry that counts from now on."""
    standing = tables.consents_in_force
    new = insert_for(connection, standing)
    replaced = new.on_conflict_do_update(
        index_elements=[standing.c.phone, standing.c.sender_id], set_={"consent_id": new.excluded.consent_id}
    )
    names = ("phone", "sender_id", "consent_id")
    connection.execute(replaced, [dict(zip(names, one, strict=True)) for one in entries])


def _end(phone: str, sender_id: str) -> Any:
    standing = tables.consents_in_force
    return delete(standing).where(standing.c.phone == phone, standing.c.sender_id == sender_id)


def terms_of(row: Any) -> Terms:
    return Terms(row.source, row.purpose, row.wording, row.wording_version, row.evidence)


def _note(
    connection: Connection,
    action: str,
    phone: str,
    before: Sequence[Any],
    after: Sequence[Any],
) -> None:
    """By their ids: what the person said stands in the ledger alone, where it can be erased."""
    told = [{"consents": [row.id for row in rows]} for rows in (before, after)]
    actions.note(connection, action, f"phone:{phone}", *told)


def _nothing_to_withdraw(phone: str, sender_id: str | None, left: Sequence[Any]) -> NotFound:
    if not left:
        return NotFound(f"{phone} has agreed to nothing that could be withdrawn", field="phone")
    return NotFound(
        f"{phone} agreed to texts, but not to those from the sender {sender_id} alone",
        field="sender_id",
        details={"consents": _in_json(left)},
    )


def _in_json(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": row.id,
            "at": rfc3339(row.at),
            "phone": row.phone,
            "action": row.action,
            "sender_id": row.sender_id or None,
            "purpose": row.purpose,
            "wording": row.wording,
            "wording_version": row.wording_version,
            "source": row.source,
            "evidence": row.evidence,
            "in_force": bool(row.in_force),
        }
        for row in rows
    ]
