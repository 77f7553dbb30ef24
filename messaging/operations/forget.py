"""One person, erased everywhere at once. An opt-out stays, as a hash: who said STOP is not texted again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote_plus

from sqlalchemy import Column, Connection, Table, delete, exists, select, tuple_, update

from messaging import statuses
from messaging.access import actions
from messaging.callbacks import journal
from messaging.consent import consents, forgotten, ledger
from messaging.messages import search, status_events
from messaging.operations import erasure
from messaging.operations.store_of_test_keys import StoreOfTestKeys
from messaging.service import Service
from messaging.storage import free_pages, tables
from messaging.storage.bulk import one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.identity import require_identity
from utils.errors import Conflict
from utils.phone_numbers import national_number

CHUNK = 500
REASON = "forgotten"
# What people write between the digits of a number.
_BETWEEN = r"[\s().-]*"
LONGEST_WRITTEN = 60
Progress = Callable[[], object]
_LEAVING = "A text to this number is just being sent: try again in a minute"


def forget(service: Service, phone: str) -> dict[str, int]:
    """As `forget_in`, of what test keys did with the number too: those kinds begin with `test_`."""
    found = forget_in(service.database, phone)
    test_keys = StoreOfTestKeys(service)
    if not test_keys.are_used():
        return found
    return found | {
        f"test_{name}": count for name, count in forget_in(test_keys.open().database, phone).items()
    }


def forget_in(database: Database, phone: str, progress: Progress = lambda: None) -> dict[str, int]:
    """How many rows of which kind lost what they held. Harmless to repeat. Raises Conflict while a POST is under way.

    `phone`: E.164. What is queued for it is cancelled. The journal and the log of forwarded events are read whole:
    `progress` is called now and then.
    """
    written = _Written(phone)
    _require_no_file_of(database, written)
    _require_no_report_of(database, written)
    _require_nothing_leaving(database, phone)
    found = {"messages": _forget_messages(database, phone)}
    found["texts_received"] = _forget_inbound(database, phone)
    _hide_opt_outs(database, phone)
    consents.forget(database, phone)
    for name, each in _SEARCHED.items():
        found[name] = each(database, written, progress)
    _compact(database)
    return {name: count for name, count in found.items() if count}


class _Written:
    """The number as it may stand in a file or a body: with or without its country code, spaces and dashes."""

    def __init__(self, phone: str) -> None:
        self.phone = phone
        national = national_number(phone)
        country = phone.removeprefix("+").removesuffix(national)
        digits = _BETWEEN.join(national)
        self._pattern = re.compile(rf"(?:\+|00)?(?:{_BETWEEN.join(country)}{_BETWEEN})?0?{digits}(?!\d)")

    def is_in(self, text: str) -> bool:
        return self._pattern.search(text) is not None

    def without(self, text: str) -> str:
        return self._pattern.sub(erasure.ERASED, text)


def _require_no_file_of(database: Database, written: _Written) -> None:
    """An upload is kept until its rows are messages. Raises Conflict."""
    pieces = select(tables.upload_pieces.c.upload_id, tables.upload_pieces.c.content).order_by(
        tables.upload_pieces.c.upload_id, tables.upload_pieces.c.position
    )
    upload_id, end = None, ""
    with (
        database.read() as connection,
        connection.execution_options(yield_per=1).execute(pieces) as rows,
    ):
        for row in rows:
            if row.upload_id != upload_id:
                upload_id, end = row.upload_id, ""
            content = end + bytes(row.content).decode("utf-8", "replace")
            if written.is_in(content):
                raise Conflict(
                    "A file with this number is just being read: try again when its batch is whole"
                )
            # A number may lie across the end of a piece.
            end = content[-LONGEST_WRITTEN:]


def _require_no_report_of(database: Database, written: _Written) -> None:
    """What a report says counts, so it is applied before its body is erased. Raises Conflict."""
    bodies = select(tables.callbacks.c.body).where(tables.RECEIVED)
    with (
        database.read() as connection,
        connection.execution_options(yield_per=CHUNK).execute(bodies) as rows,
    ):
        for row in rows:
            if written.is_in(_as_text(row.body)):
                raise Conflict("A report about this number waits for the worker: try again in a minute")


def _require_nothing_leaving(database: Database, phone: str) -> None:
    """Asked before anything is changed, and again where a text may have been claimed since. Raises Conflict."""
    leaving = (tables.messages.c.recipient == phone, tables.messages.c.status == statuses.SENDING)
    with database.read() as connection:
        if connection.execute(select(exists().where(*leaving))).scalar():
            raise Conflict(_LEAVING)


def _as_text(body: bytes) -> str:
    return unquote_plus(bytes(body).decode("utf-8", "replace"))


def _forget_messages(database: Database, phone: str) -> int:
    count = 0
    theirs = tables.messages.c.recipient == phone
    while True:
        with database.write(settled=True) as connection:
            now = wall_clock(connection)
            columns = tables.messages.c.id, tables.messages.c.status
            search.take_turn(connection)
            # No lock on their keys: whoever writes what points to them holds these, and waits for nobody's rows.
            mine = select(*columns).where(theirs).limit(CHUNK).with_for_update(key_share=True)
            rows = connection.execute(mine).all()
            if any(row.status == statuses.SENDING for row in rows):
                raise Conflict(_LEAVING)
            waiting = [row.id for row in rows if row.status in (statuses.QUEUED, statuses.HELD)]
            status_events.settle(connection, waiting, statuses.CANCELLED, REASON, now, source="operator")
            ids = [row.id for row in rows]
            if not ids:
                after = {"messages": count}
                actions.note(connection, "person.forget", f"phone:{erasure.ERASED}", after=after)
                return count
            _forget_reports(connection, ids)
            erasure.erase_messages(connection, ids)
            count += len(ids)


def _forget_reports(connection: Connection, message_ids: Sequence[int]) -> None:
    theirs = one_of(tables.delivery_reports.c.message_id, "ids"), tables.JOINED
    reports = connection.execute(
        select(tables.delivery_reports.c.id, tables.delivery_reports.c.callback_id).where(*theirs),
        {"ids": message_ids},
    ).all()
    if reports:
        erasure.erase_reports(connection, [row.id for row in reports])
        erasure.erase_callbacks(connection, [row.callback_id for row in reports])


def _forget_inbound(database: Database, phone: str) -> int:
    theirs = tables.inbound_messages.c.sender == phone
    columns = tables.inbound_messages.c.id, tables.inbound_messages.c.callback_id
    count = 0
    while True:
        with database.write(settled=True) as connection:
            rows = connection.execute(select(*columns).where(theirs).limit(CHUNK)).all()
            if not rows:
                connection.execute(delete(tables.conversations).where(tables.conversations.c.phone == phone))
                parked = tables.delivery_reports.c.recipient == phone, tables.PARKED
                connection.execute(update(tables.delivery_reports).where(*parked).values(recipient=None))
                return count
            erasure.erase_inbound(connection, [row.id for row in rows])
            kept = [row.callback_id for row in rows if row.callback_id is not None]
            erasure.erase_callbacks(connection, kept)
            count += len(rows)


def _hide_opt_outs(database: Database, phone: str) -> None:
    with database.write(settled=True) as connection:
        ledger.lock_phones(connection, [phone])
        hidden = forgotten.name_of(require_identity(connection, wall_clock(connection)), phone)
        # A second STOP after the first was forgotten: the block stands already.
        again = select(tables.suppressions.c.sender_id).where(tables.suppressions.c.phone == hidden)
        mine = tables.suppressions.c.phone == phone
        connection.execute(
            delete(tables.suppressions).where(mine, tables.suppressions.c.sender_id.in_(again))
        )
        connection.execute(update(tables.suppressions).where(mine).values(phone=hidden))
        entries = update(tables.opt_outs).where(tables.opt_outs.c.phone == phone)
        connection.execute(entries.values(phone=hidden, detail=None))


def _windows(
    database: Database, table: Table, columns: Sequence[Column[Any]], progress: Progress
) -> Iterator[Any]:
    after = 0
    while True:
        statement = select(table.c.id, *columns).where(table.c.id > after).order_by(table.c.id).limit(CHUNK)
        with database.read() as connection:
            rows = connection.execute(statement).all()
        if not rows:
            return
        yield rows
        after = rows[-1].id
        progress()


def _forget_callbacks(database: Database, written: _Written, progress: Progress) -> int:
    count = 0
    columns = tables.callbacks.c.body, tables.callbacks.c.outcome
    for rows in _windows(database, tables.callbacks, columns, progress):
        found = [row for row in rows if written.is_in(_as_text(row.body))]
        if any(row.outcome == journal.RECEIVED for row in found):
            raise Conflict("A report about this number has just come: try again in a minute")
        ids = [row.id for row in found]
        if ids:
            with database.write() as connection:
                erasure.erase_callbacks(connection, ids)
            count += len(ids)
    return count


def _forget_late_reports(database: Database, written: _Written, progress: Progress) -> int:
    """Those that came after their message was erased."""
    count = 0
    for rows in _windows(database, tables.delivery_reports, [tables.delivery_reports.c.recipient], progress):
        ids = [row.id for row in rows if row.recipient and written.is_in(row.recipient)]
        if ids:
            with database.write() as connection:
                erasure.erase_reports(connection, ids)
            count += len(ids)
    return count


def _forget_words(table: Table, *columns: Column[Any]) -> Callable[[Database, _Written, Progress], int]:
    """In texts of ours that may name the number among others."""

    def each(database: Database, written: _Written, progress: Progress) -> int:
        count = 0
        for rows in _windows(database, table, columns, progress):
            for row in rows:
                said = {column.name: getattr(row, column.name) for column in columns}
                left = {
                    name: written.without(text) for name, text in said.items() if text and written.is_in(text)
                }
                if left:
                    with database.write() as connection:
                        connection.execute(update(table).where(table.c.id == row.id).values(**left))
                    count += 1
        return count

    return each


def _forget_events(database: Database, written: _Written, progress: Progress) -> int:
    count = 0
    for rows in _windows(database, tables.forward_events, [tables.forward_events.c.body], progress):
        ids = [row.id for row in rows if written.is_in(row.body)]
        if ids:
            with database.write() as connection:
                connection.execute(
                    delete(tables.forward_events).where(one_of(tables.forward_events.c.id, "ids")),
                    {"ids": ids},
                )
            count += len(ids)
    return count


def _forget_refused_rows(database: Database, written: _Written, progress: Progress) -> int:
    """Keyed by batch and line: read batch by batch."""
    count = 0
    with database.read() as connection:
        batches = list(connection.execute(select(tables.refused_rows.c.batch_id).distinct()).scalars())
    for batch_id in batches:
        mine = tables.refused_rows.c.batch_id == batch_id
        with database.read() as connection:
            rows = connection.execute(select(tables.refused_rows).where(mine)).all()
        lines = [
            row.line
            for row in rows
            if written.is_in(f"{row.value} {' '.join(json.loads(row.cells or '[]'))}")
        ]
        with database.write() as connection:
            for line in lines:
                ours = mine, tables.refused_rows.c.line == line
                values = {"value": erasure.ERASED, "cells": None}
                connection.execute(update(tables.refused_rows).where(*ours).values(**values))
        count += len(lines)
        progress()
    return count


def _forget_answers(database: Database, written: _Written, progress: Progress) -> int:
    """Kept for a day: a repeated call then gets the answer without this number."""
    keys = tables.idempotency_keys
    count = 0
    for rows in _answers(database):
        found = [row for row in rows if row.answer and written.is_in(row.answer)]
        if found:
            with database.write() as connection:
                for row in found:
                    ours = keys.c.route == row.route, keys.c.key == row.key
                    connection.execute(update(keys).where(*ours).values(answer=written.without(row.answer)))
        count += len(found)
        progress()
    return count


def _answers(database: Database) -> Iterator[Any]:
    """An answer may name ten thousand numbers: a window of them in memory."""
    keys = tables.idempotency_keys
    place = tuple_(keys.c.key, keys.c.route)
    statement = select(keys.c.key, keys.c.route, keys.c.answer).order_by(keys.c.key, keys.c.route)
    after = ("", "")
    while True:
        with database.read() as connection:
            rows = connection.execute(statement.where(place > after).limit(CHUNK)).all()
        if not rows:
            return
        yield rows
        after = rows[-1].key, rows[-1].route


_SEARCHED: dict[str, Callable[[Database, _Written, Progress], int]] = {
    "callbacks": _forget_callbacks,
    "late_reports": _forget_late_reports,
    "events": _forget_events,
    "answers_of_the_provider": _forget_words(
        tables.attempts, tables.attempts.c.answer, tables.attempts.c.provider_message
    ),
    "actions": _forget_words(
        tables.actions, tables.actions.c.subject, tables.actions.c.before, tables.actions.c.after
    ),
    "warnings": _forget_words(tables.batches, tables.batches.c.warnings),
    "request_ids": _forget_words(tables.batches, tables.batches.c.request_id),
    "refused_rows": _forget_refused_rows,
    "answers_of_calls": _forget_answers,
}


def _compact(database: Database) -> None:
    """So that it is in no file any more: SQLite's log is emptied, PostgreSQL's dead rows are removed."""
    search.purge(database)
    if database.is_sqlite:
        free_pages.give_back(database)
        database.truncate_log()
        return
    names = [*(table.name for table in tables.metadata.sorted_tables), tables.SEARCH]
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"VACUUM {', '.join(names)}")
