"""One text, two channels: AT's callback and AT's inbox name it by different ids, so words and time have to do.

A text is taken for the same where sender, recipient and text are equal and the times are near; each row for one
text only, so that a person who says YES twice has said it twice. Either channel may come first: after an outage
AT repeats its callbacks for twelve hours, while `sms fetch-inbound` reads the inbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, func, select, text, update

from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.column_types import UtcDateTime
from messaging.storage.database import lock_keys
from utils.json_shapes import LARGEST_ID
from utils.sender_ids import sender_key

PREFIX = "inbox:"
LOCK_KEY = "inbound_texts"
# AT's dates of one text differ by their fractions; the rest is caution.
TOLERANCE = timedelta(minutes=2)
# AT repeats a callback for twelve hours (docs/africastalking.md, 4f).
LATEST_CALLBACK = timedelta(hours=12, minutes=5)
# AT's markets lie this far from UTC, and a date without zone may be in any of theirs.
ZONES = [timedelta(hours=hours) for hours in range(4)]
# An answer to a text that is older puzzles its sender more than none.
LATE = timedelta(hours=1)

_SHARE = text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:key, 0))")
_AWAITING = (
    select(tables.inbound_messages)
    .where(tables.inbound_messages.c.awaits_callback, one_of(tables.inbound_messages.c.sender, "senders"))
    .order_by(tables.inbound_messages.c.id)
)
_KNOWN_IDS = select(tables.inbound_messages.c.provider_inbound_id).where(
    one_of(tables.inbound_messages.c.provider_inbound_id, "ids")
)
_OF_SENDERS = (
    select(tables.inbound_messages)
    .where(
        tables.inbound_messages.c.inbox_id.is_(None),
        one_of(tables.inbound_messages.c.sender, "senders"),
        tables.inbound_messages.c.received_at >= bindparam("since", type_=UtcDateTime()),
    )
    .order_by(tables.inbound_messages.c.id)
)
_SAID = select(tables.inbound_messages.c.provider_date, tables.inbound_messages.c.received_at).where(
    tables.inbound_messages.c.sender == bindparam("sender"),
    tables.inbound_messages.c.meaning.in_(bindparam("meanings", expanding=True)),
)
_JOIN_CALLBACK = (
    update(tables.inbound_messages)
    .where(tables.inbound_messages.c.id == bindparam("row_id"))
    .values(
        provider_inbound_id=bindparam("callback_name"),
        awaits_callback=False,
        **{
            name: func.coalesce(tables.inbound_messages.c[name], bindparam(f"new_{name}"))
            for name in ("link_id", "network", "cost_text")
        },
    )
)
_JOIN_INBOX = (
    update(tables.inbound_messages)
    .where(tables.inbound_messages.c.id == bindparam("row_id"))
    .values(inbox_id=bindparam("new_inbox_id"))
)


class Said(NamedTuple):
    """What both channels tell of a text. `key` is the caller's; `received_at` only a callback has."""

    key: int
    sender: str
    recipient: str
    text: str
    date: str | None
    received_at: datetime | None = None


class Moment(NamedTuple):
    """`is_bare`: written without a zone, and read as UTC."""

    at: datetime
    is_bare: bool


def marks(provider_inbound_id: str) -> dict[str, Any]:
    """The columns that tell a fetched row from one that came by callback."""
    inbox_id = inbox_id_of(provider_inbound_id)
    return {"inbox_id": inbox_id, "awaits_callback": inbox_id is not None}


def inbox_id_of(provider_inbound_id: str) -> int | None:
    """The id in AT's inbox of a text that was fetched from there; None for one that came by callback.

    Digits beyond what a store takes are no such id.
    """
    digits = provider_inbound_id.removeprefix(PREFIX)
    is_fetched = digits != provider_inbound_id and digits.isascii() and digits.isdigit()
    inbox_id = int(digits) if is_fetched else None
    return inbox_id if inbox_id is not None and inbox_id <= LARGEST_ID else None


def share_lock(connection: Connection) -> None:
    """Held by callbacks while they look and insert; a fetch waits for them, and they for it. Not on SQLite."""
    if connection.dialect.name != "sqlite":
        connection.execute(_SHARE, {"key": LOCK_KEY})


def take_lock(connection: Connection) -> None:
    lock_keys(connection, [LOCK_KEY])


def join_callbacks(connection: Connection, arrived: Mapping[str, Any]) -> dict[str, int]:
    """Which of the texts that callbacks bring, by provider id, were fetched before: their rows by provider id.

    `arrived` holds `FiledText`s of `messaging.conversations.receive`. A row takes the callback's id, and what only
    that tells.
    """
    senders = sorted({one.inbound.sender for one in arrived.values()})
    rows = connection.execute(_AWAITING, {"senders": senders}).all()
    if not rows:
        return {}
    known = set(connection.execute(_KNOWN_IDS, {"ids": list(arrived)}).scalars())
    names = [name for name in arrived if name not in known and inbox_id_of(name) is None]
    said = [_said(index, arrived[name]) for index, name in enumerate(names)]
    joined = {names[key]: row_id for key, row_id in match(said, rows).items()}
    if joined:
        connection.execute(
            _JOIN_CALLBACK, [_join_row(arrived[name].inbound, joined[name]) for name in joined]
        )
    return joined


def _said(key: int, filed: Any) -> Said:
    one = filed.inbound
    return Said(key, one.sender, one.recipient, one.text, one.provider_date, filed.received_at)


def _join_row(inbound: Any, row_id: int) -> dict[str, Any]:
    return {
        "row_id": row_id,
        "callback_name": inbound.provider_inbound_id,
        "new_link_id": inbound.link_id,
        "new_network": inbound.network,
        "new_cost_text": inbound.cost_text,
    }


def join_inbox(connection: Connection, fetched: Sequence[Said]) -> set[int]:
    """Those of AT's inbox entries (`key`: their id there) that we have already; their rows are marked with it."""
    ids = [one.key for one in fetched]
    known = set(
        connection.execute(
            select(tables.inbound_messages.c.inbox_id).where(
                one_of(tables.inbound_messages.c.inbox_id, "ids")
            ),
            {"ids": ids},
        ).scalars()
    )
    new = [one for one in fetched if one.key not in known]
    times = [moment.at for one in new if (moment := read_moment(one.date))]
    since = (
        min(times) - ZONES[-1] - TOLERANCE
        if times and len(times) == len(new)
        else datetime(1970, 1, 1, tzinfo=UTC)
    )
    rows = connection.execute(
        _OF_SENDERS, {"senders": sorted({one.sender for one in new}), "since": since}
    ).all()
    joined = match(new, rows)
    if joined:
        given = [{"row_id": row_id, "new_inbox_id": key} for key, row_id in joined.items()]
        connection.execute(_JOIN_INBOX, given)
    return known | set(joined)


def match(said: Iterable[Said], rows: Sequence[Row[Any]]) -> dict[int, int]:
    """Row ids by key: of all pairs that may be one text the nearest in time first, no row twice."""
    by_words: dict[tuple[str, str, str], list[Row[Any]]] = {}
    for row in rows:
        by_words.setdefault(_identity(row), []).append(row)
    pairs = [
        (gap, one.key, row.id)
        for one in said
        for row in by_words.get(_identity(one), ())
        if (gap := gap_between(one, row)) is not None
    ]
    found: dict[int, int] = {}
    taken: set[int] = set()
    for _, key, row_id in sorted(pairs):
        if key not in found and row_id not in taken:
            found[key] = row_id
            taken.add(row_id)
    return found


def _identity(one: Any) -> tuple[str, str, str]:
    return one.sender, sender_key(one.recipient), one.text.strip()


def gap_between(one: Said, row: Any) -> timedelta | None:
    """How far apart two equal texts are in time; None where they cannot be the same one."""
    mine, theirs = read_moment(one.date), read_moment(row.provider_date)
    if mine is not None and theirs is not None:
        shifts = ZONES if mine.is_bare or theirs.is_bare else ZONES[:1]
        gap = min(abs(abs(mine.at - theirs.at) - shift) for shift in shifts)
        return gap if gap <= TOLERANCE else None
    if mine is not None:
        return _delay(mine, row.received_at)
    if one.received_at is None:
        return timedelta(0)
    # Without the limit a fetched YES whose callback never came would take every later YES for itself.
    return _delay(theirs or Moment(row.received_at, is_bare=False), one.received_at)


def _delay(said: Moment, received_at: datetime) -> timedelta | None:
    """How long a callback without date was on its way, if it brought what was said then."""
    delay = received_at - said.at
    earliest = -TOLERANCE - (ZONES[-1] if said.is_bare else timedelta(0))
    return abs(delay) if earliest <= delay <= LATEST_CALLBACK else None


def read_moment(date: str | None) -> Moment | None:
    """Any of AT's formats (docs/africastalking.md, 4a); None where there is none that can be read."""
    try:
        moment = datetime.fromisoformat((date or "").strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        return Moment(moment.replace(tzinfo=UTC), is_bare=True)
    return Moment(moment.astimezone(UTC), is_bare=False)


def is_late(provider_inbound_id: str, date: str | None, received_at: datetime) -> bool:
    """Whether a text was fetched so long after it was sent that it is not answered by itself."""
    if inbox_id_of(provider_inbound_id) is None:
        return False
    moment = read_moment(date)
    return moment is None or received_at - moment.at > LATE


def is_overtaken(
    connection: Connection,
    provider_inbound_id: str,
    sender: str,
    date: str | None,
    opposites: Sequence[str],
) -> bool:
    """Whether a STOP, START or JOIN is older than an opposite word that its sender said since.

    In doubt (no date, no zone) STOP stands: one that a callback brings always, for AT's dates are no promise.
    """
    mine = read_moment(date)
    is_start = "stop" in opposites
    is_fetched = inbox_id_of(provider_inbound_id) is not None
    if not is_fetched and (mine is None or not is_start):
        return False
    rows = connection.execute(_SAID, {"sender": sender, "meanings": list(opposites)}).all()
    if not is_fetched:
        return _is_older(mine, [read_moment(row.provider_date) for row in rows])
    times = [read_moment(row.provider_date) or Moment(row.received_at, is_bare=False) for row in rows]
    if mine is None:
        return is_start and bool(times)
    doubt = ZONES[-1] if mine.is_bare or any(one.is_bare for one in times) else timedelta(0)
    border = mine.at - doubt if is_start else mine.at + doubt
    return any(one.at > border for one in times)


def _is_older(mine: Moment | None, times: Iterable[Moment | None]) -> bool:
    """By dates of one form, for a bare one tells nothing beside one with a zone.

    AT repeats what it could not bring, so a START may come after the STOP that was said after it.
    """
    return mine is not None and any(
        one is not None and one.is_bare == mine.is_bare and one.at > mine.at for one in times
    )
