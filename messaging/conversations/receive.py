"""Texts that people send to us: kept once each, obeyed where they say STOP, START or JOIN, answered
otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from messaging.consent import consents, keywords, ledger
from messaging.consent.keywords import HELP, JOIN, MESSAGE, POSSIBLE_OPT_OUT, START, STOP, Keyword
from messaging.conversations import default_reply, replies, same_text, threads
from messaging.conversations.handlers import require_handlers
from messaging.conversations.replies import Outcome, Reply
from messaging.forwarding import events
from messaging.storage import rollback, tables
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import wake_after_commit
from utils import sender_ids
from utils.errors import InvalidPhone
from utils.phone_numbers import require_e164
from utils.settings import Settings

SAME_ID = "this inbound id came before"
# What is obeyed, and by which word said since it is overtaken.
OPPOSITES = {STOP: (START, JOIN), START: (STOP,), JOIN: (STOP,)}
# Of a text as evidence.
LONGEST_WORDS = 100
OTHER_WORDS = "this inbound id came before with other words; the STOP, START or JOIN in these counts"
FETCHED_BEFORE = "this text was fetched from the inbox before"

_INSERTS = {
    name: insert(tables.inbound_messages)
    .on_conflict_do_nothing(index_elements=[tables.inbound_messages.c.provider_inbound_id])
    .returning(tables.inbound_messages.c.id, tables.inbound_messages.c.provider_inbound_id)
    for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}


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
    # More numbers that the sender may be, where AT's spelling does not tell; a STOP counts for all of them.
    other_readings: tuple[str, ...] = ()


class FiledText(NamedTuple):
    callback_id: int
    received_at: datetime
    inbound: InboundText


class _New(NamedTuple):
    """A text that we did not have. `phone` is None where its sender is no phone."""

    id: int
    filed: FiledText
    phone: str | None
    keyword: Keyword

    @property
    def text(self) -> str:
        return self.filed.inbound.text


class _FromPhone(NamedTuple):
    """One that may be answered. `has_changed`: its STOP, START or JOIN has just made or lifted a block, or
    given a consent."""

    new: _New
    phone: str
    has_changed: bool


def receive_texts(settings: Settings, connection: Connection, filed: Sequence[FiledText]) -> dict[int, str]:
    """An id that came before makes no second row and gets no second reply.

    Only a STOP, START or JOIN counts though its id came with other words before: the first body may have been cut
    short.
    Returns, by callback id, why a text was not taken as a new one.
    """
    arrived = _without_fetched(connection, filed)
    new = _insert(settings, connection, arrived)
    changed = _obey(settings, connection, new)
    said_again = _obeyed_again(settings, connection, arrived, new)
    ids = (one.filed.inbound.provider_inbound_id for one in (*new, *said_again))
    is_fetched = any(same_text.inbox_id_of(one) is not None for one in ids)
    is_recovering = is_fetched and rollback.is_recovering(connection)
    refused = [Outcome(one.id, why) for one in new if (why := _refusal(settings, one, is_recovering))]
    not_answered = {one.inbound_id for one in refused}
    people = [
        _FromPhone(one, one.phone, one.id in changed)
        for one in new
        if one.phone is not None and one.id not in not_answered
    ]
    people += [
        _FromPhone(one, one.phone, has_changed=True)
        for one in said_again
        if one.phone is not None and _refusal(settings, one, is_recovering) is None
    ]
    outcomes = refused + _answer(settings, connection, people)
    replies.note(connection, outcomes)
    threads.heard(
        connection,
        [
            threads.Heard(one.phone, one.filed.inbound.recipient, one.id, one.filed.received_at)
            for one in new
            if one.phone is not None
        ],
    )
    kept = {one.filed.callback_id for one in new}
    arrived_ids = {one.callback_id for one in arrived}
    notes = {one.callback_id: FETCHED_BEFORE for one in filed if one.callback_id not in arrived_ids}
    notes |= dict.fromkeys(arrived_ids - kept, SAME_ID)
    return notes | {one.filed.callback_id: OTHER_WORDS for one in said_again}


def _without_fetched(connection: Connection, filed: Sequence[FiledText]) -> list[FiledText]:
    """Without those whose text `sms fetch-inbound` has brought already, under another id."""
    same_text.share_lock(connection)
    arrived = {one.inbound.provider_inbound_id: one for one in filed}
    joined = same_text.join_callbacks(connection, arrived)
    return [one for one in filed if one.inbound.provider_inbound_id not in joined]


def _insert(settings: Settings, connection: Connection, filed: Sequence[FiledText]) -> list[_New]:
    first: dict[str, FiledText] = {}
    for one in filed:
        first.setdefault(one.inbound.provider_inbound_id, one)
    meanings = {
        provider_id: keywords.read_keyword(one.inbound.text, settings) for provider_id, one in first.items()
    }
    # In one order, so that two groups with ids in common cannot wait for each other.
    rows = [_row(first[provider_id], meanings[provider_id]) for provider_id in sorted(first)]
    inserted = connection.execute(_INSERTS[connection.dialect.name], rows).all() if rows else []
    ids = {row.provider_inbound_id: row.id for row in inserted}
    events.note_inbound(connection, list(ids.values()))
    return [
        _new(ids[provider_id], one, meanings[provider_id])
        for provider_id, one in first.items()
        if provider_id in ids
    ]


def _obeyed_again(
    settings: Settings,
    connection: Connection,
    arrived: Sequence[FiledText],
    new: Sequence[_New],
) -> list[_New]:
    """Those of known ids whose STOP, START or JOIN has just changed something."""
    kept = {one.filed.callback_id for one in new}
    spoken = [
        (one, keyword)
        for one in arrived
        if one.callback_id not in kept
        and (keyword := keywords.read_keyword(one.inbound.text, settings)).meaning in OPPOSITES
    ]
    if not spoken:
        return []
    before = _texts_before(connection, [one.inbound.provider_inbound_id for one, _ in spoken])
    obeyed = []
    for one, keyword in spoken:
        inbound_id, text = before[one.inbound.provider_inbound_id]
        again = _new(inbound_id, one, keyword)
        # The same words in another spelling of the form are no news: a START may have followed them.
        if text != one.inbound.text and _obey(settings, connection, [again]):
            obeyed.append(again)
    return obeyed


def _texts_before(connection: Connection, provider_ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """By AT's id: ours, and the text that came with it first."""
    known = tables.inbound_messages.c.provider_inbound_id
    wanted = select(known, tables.inbound_messages.c.id, tables.inbound_messages.c.text).where(
        known.in_(set(provider_ids))
    )
    return {row.provider_inbound_id: (row.id, row.text) for row in connection.execute(wanted)}


def _row(filed: FiledText, keyword: Keyword) -> dict[str, Any]:
    is_possible = keyword.meaning == POSSIBLE_OPT_OUT
    return {
        **{name: value for name, value in filed.inbound._asdict().items() if name != "other_readings"},
        **same_text.marks(filed.inbound.provider_inbound_id),
        "meaning": MESSAGE if is_possible else keyword.meaning,
        "possible_opt_out": is_possible,
        "callback_id": filed.callback_id,
        "received_at": filed.received_at,
    }


def _new(inbound_id: int, filed: FiledText, keyword: Keyword) -> _New:
    try:
        phone = require_e164(filed.inbound.sender).e164
    except InvalidPhone:
        phone = None
    return _New(inbound_id, filed, phone, keyword)


def _obey(settings: Settings, connection: Connection, new: Sequence[_New]) -> frozenset[int]:
    """The ids of those that made or lifted a block, or gave a consent."""
    spoken = [(one, phone) for one in new if one.keyword.meaning in OPPOSITES for phone in _spoken_for(one)]
    ledger.lock_phones(connection, [phone for _, phone in spoken])
    joining = [phone for one, phone in spoken if one.keyword.meaning == JOIN]
    if joining:
        consents.lock_phones(connection, joining)
    return frozenset([one.id for one, phone in spoken if _obey_one(settings, connection, one, phone)])


def _spoken_for(one: _New) -> tuple[str, ...]:
    """Every number that its sender may be. What is no number is blocked as the string it is."""
    inbound = one.filed.inbound
    if one.phone is None:
        return (ledger.name_of_no_number(inbound.sender),)
    return (one.phone, *inbound.other_readings)


def _obey_one(settings: Settings, connection: Connection, one: _New, phone: str) -> bool:
    inbound, callback_id = one.filed.inbound, one.filed.callback_id
    number, opposites = inbound.recipient, OPPOSITES[one.keyword.meaning]
    if same_text.is_overtaken(
        connection, inbound.provider_inbound_id, inbound.sender, inbound.provider_date, opposites
    ):
        return False
    if one.keyword.meaning in (START, JOIN):
        # Who joins wants texts: to confirm it and go on blocking them would be a promise that is not kept.
        has_lifted = ledger.record_start(connection, phone, number, callback_id) > 0
        return (one.keyword.meaning == JOIN and _join(settings, connection, one, phone)) or has_lifted
    return ledger.record_stop(connection, phone, settings.stop_scope, number, ledger.KEYWORD, callback_id)


def _join(settings: Settings, connection: Connection, one: _New, phone: str) -> bool:
    """Covers what a STOP to the same number would end. A number that the sender only may be has agreed to nothing."""
    if phone != one.phone:
        return False
    inbound = one.filed.inbound
    words = inbound.text.strip()[:LONGEST_WORDS].replace("\0", "\ufffd")
    terms = consents.Terms(
        ledger.KEYWORD,
        settings.join_purpose,
        settings.join_wording,
        settings.join_wording_version,
        f"inbound {one.id} to {inbound.recipient}: {words}",
    )
    sender_id = inbound.recipient if settings.stop_scope == "sender" else None
    return consents.join(connection, phone, sender_id, terms)


def _refusal(settings: Settings, one: _New, is_recovering: bool) -> str | None:
    """Why this text certainly gets no reply; None where it may.

    What a recovery finds in AT's inbox may have been answered before the database was put back.
    """
    inbound = one.filed.inbound
    ours = (settings.at_shortcode, settings.at_sender_id, inbound.recipient)
    if sender_ids.sender_key(inbound.sender) in {sender_ids.sender_key(own) for own in ours if own}:
        return "own_number"
    if is_recovering and same_text.inbox_id_of(inbound.provider_inbound_id) is not None:
        return "late"
    if same_text.is_late(inbound.provider_inbound_id, inbound.provider_date, one.filed.received_at):
        return "late"
    return "not_a_phone" if one.phone is None else None


def _answer(settings: Settings, connection: Connection, people: Sequence[_FromPhone]) -> list[Outcome]:
    defaults = {one.new.id: _default_reply(settings, one) for one in people}
    handlers = require_handlers(settings)
    outcomes, wanted = [], []
    for one in people:
        text = defaults[one.new.id]
        if text is not None:
            wanted.append(_reply(one, text, is_default=True))
        elif one.new.keyword.meaning == STOP:
            outcomes.append(Outcome(one.new.id, STOP))
        elif handlers.want(one.new.text):
            # The row is the job: a worker runs the handler, and what hangs there keeps no callback waiting.
            due_at = steady(connection, wall_clock(connection))
            outcomes.append(Outcome(one.new.id, replies.WAITING, due_at=due_at))
            wake_after_commit(connection)
        elif one.new.keyword.meaning == POSSIBLE_OPT_OUT:
            # Repeated to somebody who wants no texts it would be one more.
            outcomes.append(Outcome(one.new.id, POSSIBLE_OPT_OUT))
        else:
            wanted.append(_reply(one, reply_by_template(settings, one.new.text)))
    return outcomes + replies.send(settings, connection, wanted)


def _default_reply(settings: Settings, one: _FromPhone) -> str | None:
    """What confirms a STOP, START or JOIN that changed something, or helps; None where the text is to go on.

    A person who says STOP again has had the confirmation. A START of somebody who is not stopped is an ordinary
    text, and so is a JOIN of somebody who has joined.
    """
    meaning = one.new.keyword.meaning
    if meaning in (MESSAGE, POSSIBLE_OPT_OUT) or (meaning != HELP and not one.has_changed):
        return None
    return keywords.reply_to(one.new.keyword, settings) or (None if meaning in (STOP, HELP, JOIN) else "")


def reply_by_template(settings: Settings, text: str) -> str:
    return default_reply.reply_to(settings.reply_template, text)


def _reply(one: _FromPhone, text: str, *, is_default: bool = False) -> Reply:
    inbound = one.new.filed.inbound
    return Reply(
        one.new.id,
        one.phone,
        inbound.recipient,
        (text,) if text.strip() else (),
        # A linkId bills its owner for content: nobody pays for being told that they have left.
        None if is_default else inbound.link_id,
        confirms_stop=one.new.keyword.meaning == STOP,
    )
