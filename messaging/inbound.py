"""Texts that people send to us: kept once each, obeyed where they say STOP or START, answered otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from messaging import echo, journal, keywords, opt_outs
from messaging.database import Database, lock_keys
from messaging.models import inbound_messages, messages
from messaging.outbox import REPLY_PRIORITY, NewMessage, enqueue
from utils.errors import InvalidPhone
from utils.phone_numbers import require_e164
from utils.segments import measure
from utils.settings import Settings

REPLY_ORIGIN = "reply"
# Two machines that answer each other would do so for ever: this many equal texts to one number, then silence.
MOST_EQUAL_REPLIES = 5
LOOP_WINDOW = timedelta(minutes=5)
# How far back a number's texts are looked through; a loop holds itself far below this.
LOOK_BACK = 200
SAME_ID = "this inbound id came before"

_INSERTS = {
    name: insert(inbound_messages)
    .on_conflict_do_nothing(index_elements=[inbound_messages.c.provider_inbound_id])
    .returning(inbound_messages.c.id, inbound_messages.c.provider_inbound_id)
    for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
_SET_REPLY_OUTCOME = (
    update(inbound_messages)
    .where(inbound_messages.c.id == bindparam("inbound_id"))
    .values(reply_outcome=bindparam("new_outcome"))
)
_LATEST_TO = (
    select(messages.c.origin, messages.c.text, messages.c.created_at)
    .where(messages.c.recipient == bindparam("phone"))
    .order_by(messages.c.id.desc())
    .limit(LOOK_BACK)
)


class InboundText(NamedTuple):
    """`sender` is E.164 where it is a phone's; `recipient` is the number of ours that it came to."""

    provider_inbound_id: str
    sender: str
    recipient: str
    text: str
    link_id: str | None = None
    network: str | None = None
    cost_text: str | None = None
    provider_date: str | None = None


class FiledText(NamedTuple):
    callback_id: int
    received_at: datetime
    inbound: InboundText


class _New(NamedTuple):
    """A text that we did not have. `phone` is None where its sender is no phone."""

    id: int
    filed: FiledText
    phone: str | None
    meaning: str


class _Reply(NamedTuple):
    """One that may be sent, unless its recipient opted out or it is part of a loop."""

    inbound_id: int
    filed: FiledText
    phone: str
    text: str


def receive_texts(
    settings: Settings, database: Database, connection: Connection, filed: Sequence[FiledText]
) -> None:
    """An id that came before changes nothing, whatever else its body says: one row, one reply."""
    new = _insert(connection, filed)
    _obey(settings, database, connection, new)
    outcomes = {one.id: outcome for one in new if (outcome := _refusal(settings, one))}
    replies = [
        _Reply(one.id, one.filed, one.phone, echo.reply_to(settings.reply_template, one.filed.inbound.text))
        for one in new
        if one.phone is not None and one.id not in outcomes
    ]
    outcomes |= _answer(database, connection, replies)
    if outcomes:
        rows = [{"inbound_id": one, "new_outcome": outcome} for one, outcome in outcomes.items()]
        connection.execute(_SET_REPLY_OUTCOME, rows)


def _insert(connection: Connection, filed: Sequence[FiledText]) -> list[_New]:
    first: dict[str, FiledText] = {}
    for one in filed:
        first.setdefault(one.inbound.provider_inbound_id, one)
    # In one order, so that two groups with ids in common cannot wait for each other.
    rows = [_row(first[provider_id]) for provider_id in sorted(first)]
    inserted = connection.execute(_INSERTS[connection.dialect.name], rows)
    ids = {row.provider_inbound_id: row.id for row in inserted}
    kept = [one for provider_id, one in first.items() if provider_id in ids]
    repeated = {one.callback_id for one in filed} - {one.callback_id for one in kept}
    journal.set_outcome(connection, sorted(repeated), journal.APPLIED, SAME_ID)
    return [_new(ids[one.inbound.provider_inbound_id], one) for one in kept]


def _row(filed: FiledText) -> dict[str, Any]:
    return {
        **filed.inbound._asdict(),
        "meaning": keywords.meaning_of(filed.inbound.text),
        "callback_id": filed.callback_id,
        "received_at": filed.received_at,
    }


def _new(inbound_id: int, filed: FiledText) -> _New:
    try:
        phone = require_e164(filed.inbound.sender).e164
    except InvalidPhone:
        phone = None
    return _New(inbound_id, filed, phone, keywords.meaning_of(filed.inbound.text))


def _obey(settings: Settings, database: Database, connection: Connection, new: Sequence[_New]) -> None:
    spoken = [(one, one.phone) for one in new if one.meaning != "message" and one.phone is not None]
    opt_outs.lock_phones(connection, [phone for _, phone in spoken])
    for one, phone in spoken:
        callback_id, shortcode = one.filed.callback_id, one.filed.inbound.recipient
        if one.meaning == "start":
            opt_outs.record_start(database, connection, phone, shortcode, callback_id)
            continue
        opt_outs.record_stop(
            database, connection, phone, settings.stop_scope, shortcode, opt_outs.KEYWORD, callback_id
        )


def _refusal(settings: Settings, one: _New) -> str | None:
    """Why this text certainly gets no reply; None where it may."""
    inbound = one.filed.inbound
    ours = (settings.at_shortcode, settings.at_sender_id, inbound.recipient)
    if opt_outs.sender_key(inbound.sender) in {opt_outs.sender_key(own) for own in ours if own}:
        return "own_number"
    if one.phone is None:
        return "not_a_phone"
    if one.meaning == "stop":
        return "stop"
    return None if settings.reply_template else "off"


def _answer(database: Database, connection: Connection, replies: Sequence[_Reply]) -> dict[int, str]:
    """Enqueues what may go; the outcome by inbound id."""
    opted_out = _opted_out(connection, replies)
    outcomes = dict.fromkeys(opted_out, "opted_out")
    outcomes |= {one.inbound_id: "off" for one in replies if not one.text.strip()}
    wanted = [one for one in replies if one.inbound_id not in outcomes]
    going = _without_loops(connection, wanted, database.now(connection) - LOOP_WINDOW) if wanted else []
    enqueue(database, connection, [_message(one) for one in going])
    outcomes |= dict.fromkeys((one.inbound_id for one in wanted), "held")
    return outcomes | dict.fromkeys((one.inbound_id for one in going), "queued")


def _opted_out(connection: Connection, replies: Sequence[_Reply]) -> set[int]:
    blocked: set[int] = set()
    for shortcode in {one.filed.inbound.recipient for one in replies}:
        theirs = [one for one in replies if one.filed.inbound.recipient == shortcode]
        phones = opt_outs.suppressed(connection, [one.phone for one in theirs], shortcode)
        blocked.update(one.inbound_id for one in theirs if one.phone in phones)
    return blocked


def _without_loops(connection: Connection, replies: Sequence[_Reply], since: datetime) -> list[_Reply]:
    """Without the sixth equal text to one number within five minutes, and all that follow it."""
    # Processes that answer one number at the same moment count one after the other.
    lock_keys(connection, [f"reply:{one.phone}" for one in replies])
    sent: dict[str, Counter[str]] = {}
    going = []
    for one in replies:
        if one.phone not in sent:
            sent[one.phone] = _replies_since(connection, one.phone, since)
        if sent[one.phone][one.text] < MOST_EQUAL_REPLIES:
            sent[one.phone][one.text] += 1
            going.append(one)
    return going


def _replies_since(connection: Connection, phone: str, since: datetime) -> Counter[str]:
    rows = connection.execute(_LATEST_TO, {"phone": phone})
    return Counter(row.text for row in rows if row.origin == REPLY_ORIGIN and row.created_at > since)


def _message(reply: _Reply) -> NewMessage:
    inbound = reply.filed.inbound
    return NewMessage(
        reply.phone,
        reply.text,
        inbound.recipient,
        origin=REPLY_ORIGIN,
        priority=REPLY_PRIORITY,
        link_id=inbound.link_id,
        inbound_id=reply.inbound_id,
        estimated_parts=measure(reply.text).parts,
    )
