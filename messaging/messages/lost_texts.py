"""Texts that left before the database was put back to an earlier state, and have no row in it any more.

What makes them anew (an import that goes on, a reply to the same inbound text) makes rows that are `unknown`: they may
have arrived. A call that asks for them anew, with the key of then, is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, exists, select, update

from messaging import statuses
from messaging.messages import status_events
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.identity import Identity, require_identity

# A word in `messages.reason`: the database was restored, and the text has left, or nobody can tell whether it had.
REASON = "database_restored"
SOURCE = "recovery"

_LOST = select(
    tables.lost_texts.c.id,
    tables.lost_texts.c.attempt_id,
    tables.lost_texts.c.recipient,
    tables.lost_texts.c.text,
).order_by(tables.lost_texts.c.id)
_ANY = select(exists().select_from(tables.lost_texts))
_ANY_OF_INBOUND = select(exists().where(tables.OF_INBOUND).select_from(tables.lost_texts))
_ANY_OF_CALL = select(exists().where(tables.OF_CALL).select_from(tables.lost_texts))


class MadeAnew(NamedTuple):
    """A row that was just written."""

    message_id: int
    recipient: str
    sender_id: str | None
    text: str


def digest_of_text(identity: Identity, sender_id: str | None, text: str) -> str:
    return identity.digest(sender_id or "", text)


def digest_of_inbound(identity: Identity, provider_inbound_id: str) -> str:
    return identity.digest("inbound", provider_inbound_id)


def digest_of_call(identity: Identity, route: str, key: str) -> str:
    return identity.digest("call", route, key)


def of_batch(
    connection: Connection, batch_id: int, since: datetime, recipients: Iterable[str], now: datetime
) -> Sequence[Any]:
    """Those to one of `recipients`. `since`: when the batch was made. Its id may have been another's before."""
    mine = (tables.lost_texts.c.batch_id == batch_id, tables.lost_texts.c.posting_at >= since)
    if not connection.execute(select(exists().where(*mine))).scalar():
        return ()
    identity = require_identity(connection, now)
    asked = {"recipients": sorted({identity.digest(one) for one in recipients})}
    return connection.execute(
        _LOST.where(*mine, one_of(tables.lost_texts.c.recipient, "recipients")), asked
    ).all()


def forget_old(connection: Connection, before: datetime) -> None:
    """Those of recoveries that ended before: what would be made anew of them has been."""
    old = select(tables.recoveries.c.id).where(tables.recoveries.c.closed_at < before)
    connection.execute(delete(tables.lost_texts).where(tables.lost_texts.c.recovery_id.in_(old)))


def has_call(connection: Connection, route: str, key: str, now: datetime) -> bool:
    if not connection.execute(_ANY_OF_CALL).scalar():
        return False
    digest = digest_of_call(require_identity(connection, now), route, key)
    return connection.execute(_LOST.where(tables.lost_texts.c.call == digest).limit(1)).first() is not None


def has_replies(connection: Connection) -> bool:
    return bool(connection.execute(_ANY_OF_INBOUND).scalar())


def settle_reply(connection: Connection, inbound_id: int, rows: Sequence[MadeAnew], now: datetime) -> None:
    """Of one inbound text, whose answer may have left before.

    A handler may word it otherwise now. So where no text is the same, none of them is sent.
    """
    provider_id = select(tables.inbound_messages.c.provider_inbound_id).where(
        tables.inbound_messages.c.id == inbound_id
    )
    identity = require_identity(connection, now)
    digest = digest_of_inbound(identity, connection.execute(provider_id).scalar_one())
    lost = connection.execute(_LOST.where(tables.lost_texts.c.inbound == digest)).all()
    if lost and not settle_made_anew(connection, lost, rows, now):
        make_unknown(connection, {row.message_id: lost[0] for row in rows}, now)


def settle_answer(connection: Connection, row: MadeAnew, now: datetime) -> bool:
    """Of a person's answer, which belongs to no batch, no inbound text and no call: whether it may have left before."""
    if not connection.execute(_ANY).scalar():
        return False
    identity = require_identity(connection, now)
    nobodys = (tables.lost_texts.c[name].is_(None) for name in ("batch_id", "inbound", "call"))
    mine = tables.lost_texts.c.recipient == identity.digest(row.recipient)
    lost = connection.execute(_LOST.where(mine, *nobodys)).all()
    return settle_made_anew(connection, lost, [row], now) > 0


def settle_made_anew(
    connection: Connection, lost: Sequence[Any], rows: Sequence[MadeAnew], now: datetime
) -> int:
    """Makes those of the rows `unknown` whose text left; each lost text stands for one of them."""
    identity = require_identity(connection, now)
    left: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for one in reversed(lost):
        left[one.recipient, one.text].append(one)
    found = {}
    for row in rows:
        key = identity.digest(row.recipient), digest_of_text(identity, row.sender_id, row.text)
        if left[key]:
            found[row.message_id] = left[key].pop()
    make_unknown(connection, found, now)
    return len(found)


def make_unknown(connection: Connection, found: Mapping[int, Any], now: datetime) -> None:
    """`found`: lost texts by the messages that are made of them."""
    by_attempt: dict[int, list[int]] = defaultdict(list)
    for message_id, one in found.items():
        by_attempt[one.attempt_id].append(message_id)
    for attempt_id, ids in sorted(by_attempt.items()):
        values = {"status": statuses.UNKNOWN, "reason": REASON, "attempt_id": attempt_id}
        connection.execute(
            update(tables.messages).where(one_of(tables.messages.c.id, "ids")).values(**values), {"ids": ids}
        )
        grown = {"message_count": tables.attempts.c.message_count + len(ids)}
        connection.execute(update(tables.attempts).where(tables.attempts.c.id == attempt_id).values(**grown))
        happened = [
            status_events.Event(one, now, statuses.UNKNOWN, SOURCE, attempt_id, REASON) for one in sorted(ids)
        ]
        status_events.record(connection, happened)
    if found:
        gone = {"ids": [one.id for one in found.values()]}
        connection.execute(delete(tables.lost_texts).where(one_of(tables.lost_texts.c.id, "ids")), gone)
