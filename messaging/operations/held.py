"""Everything that waits for a person: texts, batches and replies that a brake, a restore or the loop breaker holds.

Each has a name: `message:12`, `batch:7`, `reply:3`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, func, literal_column, select

from messaging import statuses
from messaging.access import actions
from messaging.batches import control
from messaging.consent import ledger
from messaging.conversations import inbound_views
from messaging.conversations.replies import HELD, as_texts
from messaging.messages import held
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils import reasons
from utils.errors import InvalidInput, NotFound, ServiceError
from utils.json_shapes import LARGEST_ID, decode_cursors, encode_cursor, rfc3339

MESSAGE, BATCH, REPLY = "message", "batch", "reply"
# In the order in which they are listed: a batch is many texts, and a person waits for a reply.
KINDS = (BATCH, REPLY, MESSAGE)
TOO_MANY_REPLIES = "too_many_replies"
# More than this are "at least so many": nobody counts a million of them for a page.
MOST_COUNTED = 10_000
_NAME = re.compile(rf"({'|'.join(KINDS)}):([1-9][0-9]{{0,18}})", re.ASCII)

_MESSAGES = select(
    tables.messages.c.id,
    tables.messages.c.reason,
    tables.messages.c.recipient,
    tables.messages.c.text,
    tables.messages.c.batch_id,
    tables.messages.c.expires_at,
).where(tables.HELD)
_BATCHES = select(
    tables.batches.c.id,
    tables.batches.c.reason,
    tables.batches.c.detail,
    tables.batches.c.name,
    tables.batches.c.total,
    tables.batches.c.template,
    tables.batches.c.expires_at,
    tables.batches.c.created_by,
).where(tables.PAUSED_BATCH, func.coalesce(tables.batches.c.reason, control.BY_HAND) != control.BY_HAND)
_REPLIES = select(
    tables.inbound_messages.c.id,
    tables.inbound_messages.c.sender,
    tables.inbound_messages.c.held_texts,
    tables.inbound_messages.c.received_at,
).where(tables.NOT_ANSWERED, tables.inbound_messages.c.reply_outcome == HELD)
_HELD_AT = (
    select(tables.message_events.c.message_id, func.max(tables.message_events.c.at).label("at"))
    .where(one_of(tables.message_events.c.message_id, "ids"), tables.message_events.c.status == statuses.HELD)
    .group_by(tables.message_events.c.message_id)
)


# A database, an id and who decided: what it is then.
Change = Callable[[Database, int, str], str]


class _Source(NamedTuple):
    """One kind: what is held of it, by what id, and how it is shown."""

    statement: Select[Any]
    id: Any
    show: Callable[[Connection, list[Row[Any]]], list[dict[str, Any]]]


class Done(NamedTuple):
    """What became of one name; `error` where it stayed as it was."""

    name: str
    status: str | None = None
    error: ServiceError | None = None

    def in_json(self) -> dict[str, Any]:
        if self.error is None:
            return {"id": self.name, "status": self.status}
        return {"id": self.name, "error": {"code": self.error.code, "message": self.error.message}}


def list_held(
    database: Database, kind: str | None = None, cursor: str | None = None, limit: int = 50
) -> dict[str, Any]:
    """A page: batches, then replies, then messages, the newest of each first. Raises InvalidInput."""
    place, before = (1, LARGEST_ID) if cursor is None else decode_cursors(cursor, 2)
    kinds = list(enumerate(KINDS, 1))[place - 1 :]
    items: list[dict[str, Any]] = []
    places: list[tuple[int, int]] = []
    with database.read() as connection:
        for number, one in kinds:
            room = limit + 1 - len(items)
            if kind not in (None, one) or not room:
                continue
            source = _SOURCES[one]
            latest = source.statement.where(source.id < before) if number == place else source.statement
            rows = list(connection.execute(latest.order_by(source.id.desc()).limit(room)))
            items += source.show(connection, rows)
            places += [(number, row.id) for row in rows]
    next_cursor = encode_cursor(*places[limit - 1]) if len(items) > limit else None
    return {"items": items[:limit], "next_cursor": next_cursor}


def count_held(connection: Connection) -> dict[str, int]:
    """By kind, each up to `MOST_COUNTED`."""
    return {kind: _count(connection, source.statement) for kind, source in _SOURCES.items()}


def release(database: Database, name: str, by: str) -> dict[str, Any]:
    """Lets it go, if nothing else forbids it by now. Raises InvalidInput, NotFound, NotHeld, Conflict, OptedOut."""
    kind, row_id = _read(name)
    return Done(name, _RELEASES[kind](database, row_id, by)).in_json()


def cancel(database: Database, name: str, by: str) -> dict[str, Any]:
    """It is never sent. Raises InvalidInput, NotFound, NotHeld, Conflict."""
    kind, row_id = _read(name)
    return Done(name, _CANCELS[kind](database, row_id, by)).in_json()


def release_each(database: Database, names: Iterable[str], by: str) -> Iterator[list[Done]]:
    """One that cannot be released keeps none of the others."""
    for name in names:
        yield [_try(database, _RELEASES, name, by)]


def cancel_each(database: Database, names: Iterable[str], by: str) -> Iterator[list[Done]]:
    for name in names:
        yield [_try(database, _CANCELS, name, by)]


def release_all(database: Database, by: str, reason: str | None = None) -> Iterator[list[Done]]:
    """Everything that is held, or is for this reason, a thousand messages at a time."""
    yield from _all_others(database, _RELEASES, by, reason)
    for ids in _all_messages(database, reason):
        with database.write(settled=True) as connection:
            now = wall_clock(connection)
            became = held.release(connection, ids, now, by, ledger.suppressed)
            _note(connection, "release", became)
        yield [Done(f"{MESSAGE}:{one}", status) for one, status in became.items()]


def cancel_all(database: Database, by: str, reason: str | None = None) -> Iterator[list[Done]]:
    yield from _all_others(database, _CANCELS, by, reason)
    for ids in _all_messages(database, reason):
        with database.write(settled=True) as connection:
            cancelled = held.cancel(connection, ids, wall_clock(connection), by)
            _note(connection, "cancel", dict.fromkeys(cancelled, statuses.CANCELLED))
        yield [Done(f"{MESSAGE}:{one}", statuses.CANCELLED) for one in cancelled]


def _all_messages(database: Database, reason: str | None) -> Iterator[list[int]]:
    after_id = 0
    while True:
        with database.read() as connection:
            ids = held.next_held(connection, after_id, reason)
        if not ids:
            return
        yield ids
        after_id = ids[-1]


def _all_others(
    database: Database, change: Mapping[str, Change], by: str, reason: str | None
) -> Iterator[list[Done]]:
    for kind in (BATCH, REPLY):
        cursor: str | None = None
        while True:
            found = list_held(database, kind, cursor)
            wanted = [one["id"] for one in found["items"] if reason in (None, one["reason"])]
            if wanted:
                yield [_try(database, change, name, by) for name in wanted]
            cursor = found["next_cursor"]
            if cursor is None:
                break


def _try(database: Database, change: Mapping[str, Change], name: str, by: str) -> Done:
    try:
        kind, row_id = _read(name)
        return Done(name, change[kind](database, row_id, by))
    except ServiceError as error:
        return Done(name, error=error)


def _read(name: str) -> tuple[str, int]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise InvalidInput(
            "What is held has a name like message:12, batch:7 or reply:3", code="invalid_id", field="id"
        )
    return found[1], min(int(found[2]), LARGEST_ID)


def _release_message(database: Database, message_id: int, by: str) -> str:
    with database.write(settled=True) as connection:
        now = wall_clock(connection)
        became = held.release(connection, [message_id], now, by, ledger.suppressed)
        _note(connection, "release", became)
        return became.get(message_id) or _refuse(connection, message_id)


def _cancel_message(database: Database, message_id: int, by: str) -> str:
    with database.write(settled=True) as connection:
        if not held.cancel(connection, [message_id], wall_clock(connection), by):
            _refuse(connection, message_id)
        _note(connection, "cancel", {message_id: statuses.CANCELLED})
    return statuses.CANCELLED


def _note(connection: Connection, verb: str, became: Mapping[int, str]) -> None:
    for message_id, status in became.items():
        said = {"status": statuses.HELD}, {"status": status}
        actions.note(connection, f"message.{verb}", f"{MESSAGE}:{message_id}", *said)


def _refuse(connection: Connection, message_id: int) -> str:
    statement = select(tables.messages.c.status).where(tables.messages.c.id == message_id)
    status = connection.execute(statement).scalar_one_or_none()
    if status is None:
        raise NotFound(f"There is no message {message_id}")
    raise held.NotHeld(f"Message {message_id} is {status}: only a held one can be released or cancelled")


def _release_batch(database: Database, batch_id: int, _by: str) -> str:
    return str(control.resume(database, batch_id)["status"])


def _cancel_batch(database: Database, batch_id: int, _by: str) -> str:
    return str(control.cancel(database, batch_id)["status"])


def _release_reply(database: Database, inbound_id: int, _by: str) -> str:
    return str(inbound_views.release(database, inbound_id)["reply"])


def _cancel_reply(database: Database, inbound_id: int, _by: str) -> str:
    return str(inbound_views.cancel(database, inbound_id)["reply"])


_RELEASES: dict[str, Change] = {MESSAGE: _release_message, BATCH: _release_batch, REPLY: _release_reply}
_CANCELS: dict[str, Change] = {MESSAGE: _cancel_message, BATCH: _cancel_batch, REPLY: _cancel_reply}


def _show_messages(connection: Connection, rows: list[Row[Any]]) -> list[dict[str, Any]]:
    found = connection.execute(_HELD_AT, {"ids": [row.id for row in rows]}) if rows else ()
    held_at = {row.message_id: row.at for row in found}
    return [
        _item(
            MESSAGE,
            row,
            row.reason,
            to=row.recipient,
            texts=[row.text],
            batch_id=row.batch_id,
            held_at=rfc3339(held_at.get(row.id)),
            expires_at=rfc3339(row.expires_at),
        )
        for row in rows
    ]


def _show_batches(_connection: Connection, rows: list[Row[Any]]) -> list[dict[str, Any]]:
    return [
        _item(
            BATCH,
            row,
            row.reason,
            row.detail,
            name=row.name,
            texts=[] if row.template is None else [row.template],
            messages=row.total,
            expires_at=rfc3339(row.expires_at),
            created_by=row.created_by,
        )
        for row in rows
    ]


def _show_replies(_connection: Connection, rows: list[Row[Any]]) -> list[dict[str, Any]]:
    return [
        _item(
            REPLY,
            row,
            TOO_MANY_REPLIES,
            to=row.sender,
            texts=(texts := as_texts(row.held_texts)),
            messages=len(texts),
            held_at=rfc3339(row.received_at),
        )
        for row in rows
    ]


def _item(
    kind: str, row: Row[Any], reason: str | None, detail: str | None = None, **known: Any
) -> dict[str, Any]:
    return {
        "id": f"{kind}:{row.id}",
        "kind": kind,
        "reason": reason,
        **reasons.in_json(reason, detail=detail),
        **_ABSENT,
        **known,
    }


_ABSENT: dict[str, Any] = {
    "to": None,
    "name": None,
    "texts": [],
    "messages": 1,
    "batch_id": None,
    "held_at": None,
    "expires_at": None,
    "created_by": None,
}
_SOURCES = {
    BATCH: _Source(_BATCHES, tables.batches.c.id, _show_batches),
    REPLY: _Source(_REPLIES, tables.inbound_messages.c.id, _show_replies),
    MESSAGE: _Source(_MESSAGES, tables.messages.c.id, _show_messages),
}


def _count(connection: Connection, statement: Select[Any]) -> int:
    some = (
        statement.with_only_columns(literal_column("1"), maintain_column_froms=True)
        .limit(MOST_COUNTED)
        .subquery()
    )
    found: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return found
