"""The last step of every answer to a text, whoever made it: consent, the loop breaker, the queue, the outcome."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from messaging.consent import ledger
from messaging.messages import lost_texts
from messaging.messages.queue import REPLY_PRIORITY, NewMessage, enqueue
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import lock_keys
from utils import reasons
from utils.segments import measure
from utils.settings import Settings
from utils.texts import compose

REPLY_ORIGIN = "reply"
QUEUED = "queued"
WAITING = "waiting"
FAILED = "failed"
HELD = "held"
CANCELLED = "cancelled"
OFF = "off"
# How far back a number's texts are looked through, twice the most that REPLIES_PER_DAY may be.
LOOK_BACK = 1000
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

_NOTE = (
    update(tables.inbound_messages)
    .where(tables.inbound_messages.c.id == bindparam("inbound_id"))
    .values(
        reply_outcome=bindparam("new_outcome"),
        reply_due_at=bindparam("new_due_at", type_=tables.inbound_messages.c.reply_due_at.type),
        reply_error=bindparam("new_error"),
        held_texts=bindparam("new_held"),
    )
)
_LATEST_TO = (
    select(tables.messages.c.origin, tables.messages.c.text, tables.messages.c.created_at)
    .where(tables.messages.c.recipient == bindparam("phone"))
    .order_by(tables.messages.c.id.desc())
    .limit(LOOK_BACK)
)


class Reply(NamedTuple):
    """The answer to one inbound message. `number` is ours, that it came to and that the answer comes from."""

    inbound_id: int
    phone: str
    number: str
    texts: tuple[str, ...]
    link_id: str | None = None
    confirms_stop: bool = False


class Outcome(NamedTuple):
    """What became of the answer to one inbound message, in the words of its `reply_outcome`."""

    inbound_id: int
    outcome: str
    # Steady time.
    due_at: datetime | None = None
    error: str | None = None
    held: tuple[str, ...] = ()


def note(connection: Connection, outcomes: Iterable[Outcome]) -> None:
    rows = [
        {
            "inbound_id": one.inbound_id,
            "new_outcome": one.outcome,
            "new_due_at": one.due_at,
            "new_error": one.error,
            "new_held": json.dumps(one.held, ensure_ascii=False) if one.held else None,
        }
        for one in outcomes
    ]
    if rows:
        connection.execute(_NOTE, rows)


def send(settings: Settings, connection: Connection, replies: Sequence[Reply]) -> list[Outcome]:
    """Enqueues what may go; the outcomes are the caller's to note."""
    # Before they are compared with what was sent, too.
    replies = [one._replace(texts=tuple(map(compose, one.texts))) for one in replies]
    silent = [one for one in replies if not one.texts]
    opted_out = _opted_out(connection, [one for one in replies if one.texts])
    wanted = [one for one in replies if one.texts and one.inbound_id not in opted_out]
    going = _without_loops(settings, connection, wanted) if wanted else set()
    put_in_queue(connection, [one for one in wanted if one.inbound_id in going])
    return [
        *(Outcome(one.inbound_id, OFF) for one in silent),
        *(Outcome(one, reasons.OPTED_OUT) for one in sorted(opted_out)),
        *(
            Outcome(one.inbound_id, QUEUED)
            if one.inbound_id in going
            else Outcome(one.inbound_id, HELD, held=one.texts)
            for one in wanted
        ),
    ]


def put_in_queue(connection: Connection, replies: Sequence[Reply]) -> None:
    new = [_message(one, text) for one in replies for text in one.texts]
    ids = enqueue(connection, new)
    if new and lost_texts.has_replies(connection):
        _leave_out_sent(connection, ids, new)


def _leave_out_sent(connection: Connection, ids: Sequence[int], new: Sequence[NewMessage]) -> None:
    """What has left already, before the database was put back to an earlier state."""
    rows: dict[int, list[lost_texts.MadeAnew]] = defaultdict(list)
    for message_id, one in zip(ids, new, strict=True):
        made = lost_texts.MadeAnew(message_id, one.recipient, one.sender_id, one.text)
        rows[one.inbound_id or 0].append(made)
    for inbound_id, mine in rows.items():
        lost_texts.settle_reply(connection, inbound_id, mine, wall_clock(connection))


def _opted_out(connection: Connection, replies: Sequence[Reply]) -> set[int]:
    blocked: set[int] = set()
    for number, confirms in {(one.number, one.confirms_stop) for one in replies}:
        theirs = [one for one in replies if (one.number, one.confirms_stop) == (number, confirms)]
        asked = [one.phone for one in theirs]
        phones = ledger.suppressed(connection, asked, number, confirms_stop=confirms)
        blocked.update(one.inbound_id for one in theirs if one.phone in phones)
    return blocked


def _without_loops(settings: Settings, connection: Connection, replies: Sequence[Reply]) -> set[int]:
    """Those that a person might want; the rest is held, whole.

    One text to one number is no more often said than a person would, and no number gets more automatic replies than
    `REPLIES_PER_HOUR` and `REPLIES_PER_DAY`: an autoresponder with a clock in its text never says the same twice.
    """
    # Processes that answer one number at the same moment count one after the other.
    lock_keys(connection, [f"reply:{one.phone}" for one in replies])
    now = wall_clock(connection)
    sent: dict[str, list[_Sent]] = {}
    going = set()
    for one in replies:
        if one.phone not in sent:
            sent[one.phone] = _replies_since(connection, one.phone, now - DAY)
        # Who leaves is told so, whatever went before; nothing follows it.
        if one.confirms_stop or _is_no_loop(sent[one.phone], one.texts, settings, now):
            sent[one.phone] += [_Sent(text, now) for text in one.texts]
            going.add(one.inbound_id)
    return going


class _Sent(NamedTuple):
    text: str
    at: datetime


def _is_no_loop(sent: Sequence[_Sent], texts: Sequence[str], settings: Settings, now: datetime) -> bool:
    lately = now - timedelta(seconds=settings.loop_seconds)
    equal = Counter(one.text for one in sent if one.at > lately)
    in_the_hour = sum(one.at > now - HOUR for one in sent)
    return (
        all(equal[text] + count <= settings.loop_limit for text, count in Counter(texts).items())
        and in_the_hour + len(texts) <= settings.replies_per_hour
        and len(sent) + len(texts) <= settings.replies_per_day
    )


def _replies_since(connection: Connection, phone: str, since: datetime) -> list[_Sent]:
    rows = connection.execute(_LATEST_TO, {"phone": phone})
    return [
        _Sent(row.text, row.created_at)
        for row in rows
        if row.origin == REPLY_ORIGIN and row.created_at > since
    ]


def _message(reply: Reply, text: str) -> NewMessage:
    return NewMessage(
        reply.phone,
        text,
        reply.number,
        origin=REPLY_ORIGIN,
        priority=REPLY_PRIORITY,
        link_id=reply.link_id,
        inbound_id=reply.inbound_id,
        passes_opt_out=reply.confirms_stop,
        estimated_parts=measure(text).parts,
    )


def as_texts(held: str | None) -> list[str]:
    texts: list[Any] = json.loads(held) if held else []
    return [str(text) for text in texts]
