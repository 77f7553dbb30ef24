"""Rows to start from, and looks at what became of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Row, Table, event, insert, select

from messaging.callbacks.receive import CallbackReceiver
from messaging.callbacks.received import apply_received
from messaging.messages.queue import NewMessage, enqueue
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from utils.settings import Settings

PHONE = "+254711000001"
OTHER_PHONE = "+254711000002"
SHORTCODE = "20880"
LONG_AGO = timedelta(days=30)


def form(**fields: str) -> bytes:
    """A body as AT sends it; `sender` stands for the field `from`, which Python keeps for itself."""
    return urlencode(
        {("from" if name == "sender" else name): value for name, value in fields.items()}
    ).encode()


def inbound(text: str, number: str = "in-1", sender: str = PHONE, to: str = SHORTCODE, **more: str) -> bytes:
    return form(sender=sender, to=to, text=text, id=number, **more)


def report(provider_id: str, word: str = "Success", phone: str = PHONE, **more: str) -> bytes:
    return form(phoneNumber=phone, id=provider_id, status=word, **more)


def opt_out(phone: str = PHONE, **more: str) -> bytes:
    return form(phoneNumber=phone, **more)


class AppliedAtOnce(CallbackReceiver):
    """With the worker's part done before it returns."""

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__(database, settings)
        self._apply = partial(apply_received, database, settings)

    def receive(
        self, kind: str, body: bytes, content_type: str | None = None, *, truncated: bool = False
    ) -> None:
        super().receive(kind, body, content_type, truncated=truncated)
        self._apply()


@contextmanager
def open_inbox(database: Database, settings: Settings, **overrides: Any) -> Iterator[CallbackReceiver]:
    inbox = AppliedAtOnce(database, settings.model_copy(update=overrides))
    try:
        yield inbox
    finally:
        inbox.stop()


def all_rows(database: Database, table: Table) -> Sequence[Row[Any]]:
    order = table.c.id if "id" in table.c else table.c.phone
    with database.read() as connection:
        return connection.execute(select(table).order_by(order)).all()


def only_row(database: Database, table: Table) -> Row[Any]:
    (row,) = all_rows(database, table)
    return row


def message(database: Database, message_id: int) -> Row[Any]:
    with database.read() as connection:
        return connection.execute(select(tables.messages).where(tables.messages.c.id == message_id)).one()


def add_message(
    database: Database,
    status: str = "accepted",
    provider_id: str | None = None,
    phone: str = PHONE,
    sender_id: str | None = None,
    posted_ago: timedelta = timedelta(minutes=1),
    **columns: Any,
) -> int:
    """One message whose attempt was posted `posted_ago`."""
    now = utc_now()
    posting_at = now - posted_ago
    attempt = {
        "state": "unknown" if status == "unknown" else "recorded",
        "worker": "test",
        "message_count": 1,
        "claimed_at": posting_at,
        "lease_until": posting_at,
        "posting_at": posting_at,
    }
    with database.write() as connection:
        attempt_id = connection.execute(
            insert(tables.attempts).returning(tables.attempts.c.id), attempt
        ).scalar_one()
        (message_id,) = enqueue(
            connection,
            [NewMessage(phone, "hello", sender_id)],
            status=status,
            attempt_id=attempt_id,
        )
        changed = {"provider_message_id": provider_id, "created_at": posting_at - timedelta(seconds=1)}
        statement = (
            tables.messages.update()
            .where(tables.messages.c.id == message_id)
            .values(**{**changed, **columns})
        )
        connection.execute(statement)
    return message_id


def add_accepted(database: Database, provider_id: str, **more: Any) -> int:
    return add_message(database, "accepted", provider_id, sent_at=utc_now(), **more)


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of all calls, made by as many threads that start together."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(30) for future in [pool.submit(run, call) for call in calls]]


def move_time(database: Database, table: Table, column: str, by: timedelta) -> None:
    """Makes every row of `table` older."""
    for row in all_rows(database, table):
        moved: datetime = row._mapping[column] - by
        with database.write() as connection:
            connection.execute(table.update().where(table.c.id == row.id).values({column: moved}))


@contextmanager
def counting_statements(database: Database) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
