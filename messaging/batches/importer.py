"""An uploaded file made into messages, a chunk at a time, by a worker or by the command that uploaded it.

Nothing of a batch is sent while it is `receiving`. Each chunk is one transaction with how far it came: after
a crash the next importer reads the file from its beginning, to know the numbers again, and goes on behind
what is written. Two importers of one batch exclude each other by the same figure. What a command leaves half
read is cancelled instead: its caller was promised nothing and would come again with the same file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from sqlalchemy import Connection, or_, select, update

from messaging import statuses
from messaging.batch_statuses import CANCELLED, NO_VALID_ROWS, PAUSED
from messaging.batches import upload_store
from messaging.batches.control import cancel_rest
from messaging.batches.import_pace import import_pace
from messaging.batches.rows import BatchRows, Chunk
from messaging.batches.text_groups import TextGroups
from messaging.costs.brakes import asks_for_money, find_brake, going_of_batch
from messaging.costs.prices import Estimate, estimate
from messaging.forwarding import events
from messaging.messages import lost_texts
from messaging.messages.queue import BATCH_PRIORITY
from messaging.messages.way_out import WayOut
from messaging.storage import rollback, tables
from messaging.storage.bulk import as_stored, insert_rows, one_of
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database, wake_after_commit
from messaging.storage.new_ids import reserve_ids
from utils.csv_files import InvalidFile, read_header, read_rows
from utils.settings import Settings
from utils.texts import as_text

# An importer writes many times a second. One unseen for this long is dead, or will find itself overtaken.
IMPORTER_LOST_AFTER = timedelta(seconds=60)
INTERRUPTED = "interrupted"
_COLUMNS = (
    "recipient",
    "text",
    "estimated_parts",
    "line",
    "reference",
    "cells",
    "text_group",
    "batch_id",
    "sender_id",
    "origin",
    "priority",
    "status",
    "on_unknown",
    "due_at",
    "due_by_wall",
    "expires_at",
    "created_at",
)
_REFUSED_COLUMNS = ("line", "value", "code", "reason", "cells", "batch_id")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """`rows`, `taken`: so far. `bytes_read`: of the upload."""

    rows: int
    bytes_read: int


Report = Callable[[ImportProgress], None]


TOO_MANY_REFUSED = "too_many_refused"


class Overtaken(Exception):
    """Another importer has this batch, or a person cancelled it: nothing of this chunk was written."""


def import_next(database: Database, settings: Settings, stopping: Callable[[], bool]) -> bool:
    """One waiting batch, to its end or until `stopping`. False where none waits. Raises Recovering."""
    batch = _take(database)
    if batch is None:
        return False
    if batch.reason == tables.READ_BY_COMMAND:
        _give_up(database, batch.id, INTERRUPTED)
        upload_store.forget(database, batch.upload_id)
        return True
    _import(database, settings, batch, stopping, lambda _progress: None)
    return True


def import_batch(
    database: Database, settings: Settings, batch_id: int, report: Report, stopping: Callable[[], bool]
) -> None:
    """This batch, in the caller's time: for a command, which shows how it goes on."""
    with database.read() as connection:
        batch = connection.execute(select(tables.batches).where(tables.batches.c.id == batch_id)).one()
    _import(database, settings, batch, stopping, report)


def _take(database: Database) -> Any:
    with database.read() as connection:
        waiting = connection.execute(_waiting(steady(connection, wall_clock(connection)))).first()
    if waiting is None:
        return None
    with database.write() as connection:
        wall = wall_clock(connection)
        rollback.require(connection, wall)
        now = steady(connection, wall)
        batch = connection.execute(_waiting(now).with_for_update(skip_locked=True)).first()
        if batch is not None:
            connection.execute(
                update(tables.batches).where(tables.batches.c.id == batch.id).values(importer_seen_at=now)
            )
        return batch


def _waiting(now: datetime) -> Any:
    seen_at = tables.batches.c.importer_seen_at
    unattended = or_(seen_at.is_(None), seen_at < now - IMPORTER_LOST_AFTER)
    return (
        select(tables.batches)
        .where(tables.RECEIVING, tables.batches.c.upload_id.is_not(None), unattended)
        .order_by(tables.batches.c.id)
        .limit(1)
    )


def _import(
    database: Database, settings: Settings, batch: Any, stopping: Callable[[], bool], report: Report
) -> None:
    try:
        with upload_store.read(database, batch.upload_id) as file:
            is_whole = _import_rows(database, settings, batch, file, stopping, report)
    except Overtaken:
        return
    except InvalidFile as error:
        _give_up(database, batch.id, f"{error.code}: {error.message}")
        is_whole = True
    if is_whole:
        upload_store.forget(database, batch.upload_id)


def _import_rows(
    database: Database,
    settings: Settings,
    batch: Any,
    file: BinaryIO,
    stopping: Callable[[], bool],
    report: Report,
) -> bool:
    header = read_header(file.peek(), batch.phone_column)  # type: ignore[attr-defined]
    region = batch.default_region or settings.default_region
    way_out = WayOut.of(settings, batch.sender_id)
    reader = BatchRows(batch.template, header, region, way_out, keeps_cells=True)
    groups = TextGroups()
    titles = json.dumps([as_text(title) for title in header.titles], ensure_ascii=False)
    rows = read_rows(file, header)
    done = reader.skip(rows, batch.rows_read)
    with import_pace(database) as pace:
        while chunk := reader.read(rows, pace.chunk_size()):
            if stopping():
                _let_go(database, batch.id)
                return False
            pace.before_write()
            about = {"file_columns": titles, "warnings": reader.warnings.as_stored()}
            seconds = _write_chunk(database, batch, chunk, done, groups, about)
            pace.after_write(chunk.rows, seconds)
            done += chunk.rows
            report(ImportProgress(done, file.tell()))
    if stopping():
        _let_go(database, batch.id)
        return False
    if _has_too_many_refused(database, batch, done):
        _give_up(database, batch.id, TOO_MANY_REFUSED)
    else:
        _finish(database, settings, batch, done)
    return True


def _has_too_many_refused(database: Database, batch: Any, done: int) -> bool:
    if batch.max_refused is None:
        return False
    with database.read() as connection:
        statement = select(tables.batches.c.refused).where(tables.batches.c.id == batch.id)
        return bool(connection.execute(statement).scalar_one() > done * batch.max_refused)


def _write_chunk(
    database: Database, batch: Any, chunk: Chunk, done: int, groups: TextGroups, about: dict[str, Any]
) -> float:
    """For how many seconds it held its locks. `about`: what the batch keeps of its file.

    Raises Overtaken, Recovering.
    """
    with database.write() as connection:
        began_at = time.monotonic()
        now = wall_clock(connection)
        rollback.require(connection, now)
        advanced = connection.execute(
            update(tables.batches)
            .where(tables.RECEIVING, tables.batches.c.id == batch.id, tables.batches.c.rows_read == done)
            .values(
                rows_read=done + chunk.rows,
                total=tables.batches.c.total + len(chunk.taken),
                refused=tables.batches.c.refused + chunk.refused_count,
                duplicates=tables.batches.c.duplicates + chunk.duplicates,
                **about,
                importer_seen_at=steady(connection, now),
            )
        )
        if advanced.rowcount != 1:
            raise Overtaken
        shared = _shared_values(connection, batch, now)
        rows = [
            (*row, groups.number(row.text, number), *shared)
            for number, row in enumerate(chunk.taken, start=done)
        ]
        _insert(connection, rows)
        _leave_out_sent(connection, batch, chunk, now)
        not_taken = [(*row, batch.id) for row in (*chunk.refused, *chunk.duplicate_rows)]
        insert_rows(connection, tables.refused_rows, _REFUSED_COLUMNS, not_taken)
    return time.monotonic() - began_at


def _insert(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    """SQLite itself would go on behind the last row, which a backup that was put back may lack."""
    if connection.dialect.name != "sqlite":
        insert_rows(connection, tables.messages, _COLUMNS, rows)
        return
    ids = reserve_ids(connection, tables.messages, len(rows))
    with_ids = [(message_id, *row) for message_id, row in zip(ids, rows, strict=True)]
    insert_rows(connection, tables.messages, ("id", *_COLUMNS), with_ids)


def _leave_out_sent(connection: Connection, batch: Any, chunk: Chunk, now: datetime) -> None:
    """What left when it was imported before the database was put back to an earlier state."""
    lost = lost_texts.of_batch(
        connection, batch.id, batch.created_at, (row.recipient for row in chunk.taken), now
    )
    if not lost:
        return
    mine = (tables.messages.c.batch_id == batch.id, tables.messages.c.status == statuses.QUEUED)
    columns = (
        tables.messages.c[name].label("message_id" if name == "id" else name)
        for name in ("id", "recipient", "sender_id", "text")
    )
    wanted = select(*columns).where(*mine, one_of(tables.messages.c.recipient, "recipients"))
    rows = connection.execute(wanted, {"recipients": [row.recipient for row in chunk.taken]})
    lost_texts.settle_made_anew(connection, lost, [lost_texts.MadeAnew(*row) for row in rows], now)


def _shared_values(connection: Connection, batch: Any, now: datetime) -> tuple[Any, ...]:
    # One moment for the whole batch, so that rows with the same text stand together in the index of what is due.
    at_once = steady(connection, min(batch.created_at, now))
    due_at = as_stored(connection, batch.send_at or at_once)
    expires_at, created_at = as_stored(connection, batch.expires_at), as_stored(connection, now)
    return (
        batch.id,
        batch.sender_id,
        "batch",
        BATCH_PRIORITY,
        statuses.QUEUED,
        batch.on_unknown,
        due_at,
        batch.send_at is not None,
        expires_at,
        created_at,
    )


def _finish(database: Database, settings: Settings, batch: Any, done: int) -> None:
    """From here on its messages go out, or wait for a person where a brake holds them."""
    costs = _estimate(database, batch) if asks_for_money(settings) else None
    # A worker finds out at its next try; whoever typed a command is told the truth.
    with database.write(settled=batch.reason == tables.READ_BY_COMMAND) as connection:
        now = wall_clock(connection)
        is_later = batch.send_at is not None and batch.send_at > now
        ours = (tables.RECEIVING, tables.batches.c.id == batch.id, tables.batches.c.rows_read == done)
        total = connection.execute(
            select(tables.batches.c.total).where(*ours).with_for_update()
        ).scalar_one_or_none()
        if total is None:
            raise Overtaken
        brake = find_brake(settings, connection, now, total, costs)
        values: dict[str, Any] = {"status": "scheduled" if is_later else "sending", "reason": None}
        if not total:
            values = {"status": "finished", "reason": NO_VALID_ROWS, "finished_at": now}
        elif brake is not None:
            values = {"status": PAUSED, **brake._asdict()}
        connection.execute(update(tables.batches).where(tables.batches.c.id == batch.id).values(**values))
        if not total:
            events.note_batches(connection, [batch.id], now)
        wake_after_commit(connection)
    logger.info("a batch is whole", extra={"batch_id": batch.id, "total": total})


def _estimate(database: Database, batch: Any) -> Estimate:
    """In a transaction of its own: no row of it changes any more, and a million are read."""
    with database.read() as connection:
        return estimate(connection, batch.sender_id, going_of_batch(connection, batch.id))


def _give_up(database: Database, batch_id: int, reason: str) -> None:
    """Nothing of a file is sent of which a part cannot be read, or that a command left half read."""
    values = {"status": CANCELLED, "reason": reason}
    with database.write() as connection:
        ended = connection.execute(
            update(tables.batches).where(tables.RECEIVING, tables.batches.c.id == batch_id).values(**values)
        )
    # Another importer may have brought it to its end meanwhile.
    if ended.rowcount:
        cancel_rest(database, batch_id)


def _let_go(database: Database, batch_id: int) -> None:
    with database.write() as connection:
        connection.execute(
            update(tables.batches)
            .where(tables.RECEIVING, tables.batches.c.id == batch_id)
            .values(importer_seen_at=None)
        )
