"""What is done when the database went backwards: first it is written down again what has left, then sending goes on.

Each machine reads its own witnesses. A POST that the database does not have becomes an attempt again, and its
messages `unknown`: they may have arrived, so they are not sent again by themselves; a report settles them as any
other. What has no row any more is kept as hashes, so that what is made anew of it is not sent again either.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, or_, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from messaging import statuses
from messaging.callbacks.fetch_inbound import Provider, fetch_inbound
from messaging.costs import budgets
from messaging.messages import held, status_events
from messaging.messages.lost_texts import REASON, SOURCE, digest_of_text
from messaging.sending import last_check, rate_limit, start_post
from messaging.sending.witness import (
    LOCK_FILE,
    Record,
    find_problem,
    make_folder,
    read_counter,
    read_records,
)
from messaging.storage import rollback, tables
from messaging.storage.bulk import insert_for, one_of
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database, wake_after_commit
from messaging.storage.identity import ROW_ID, Identity, require_identity
from messaging.storage.new_ids import highest_id_name, reserve_ids
from messaging.storage.rollback import LEFT, RESTORED
from utils.errors import ProviderError
from utils.private_files import FILE_MODE
from utils.secret_files import read_or_make
from utils.settings import Settings

ID_FILE = "id"
ID_BYTES = 16
READING_FILE = "reading"
# Machines are started one after the other. One that has not read its witnesses by then is taken to be gone.
SILENT_AFTER = timedelta(minutes=2)
# An inbox that cannot be read for so long does not keep everything else from being sent.
INBOX_TRIED_FOR = timedelta(minutes=2)
REGISTER_SECONDS = 20.0
LOOK_SECONDS = 0.5
MOST_RECIPIENTS = 2000
MOST_POSTS = 100
CHUNK = 1000
# What may still be sent, by itself or by a hand.
MAY_LEAVE = (statuses.QUEUED, statuses.SENDING, statuses.HELD)

_OPEN = select(tables.recoveries).where(
    tables.recoveries.c.id
    == select(tables.database_identity.c.recovery_id)
    .where(tables.database_identity.c.id == ROW_ID)
    .scalar_subquery()
)
_JUMP = text(
    "SELECT setval(CAST(:sequence AS regclass),"
    " greatest(CAST(:highest AS bigint), nextval(CAST(:sequence AS regclass))))"
)

logger = logging.getLogger(__name__)


class Recoverer:
    """Of one process. `step` is called again and again."""

    def __init__(self, settings: Settings, database: Database, provider: Provider) -> None:
        self._settings = settings
        self._database = database
        self._provider = provider
        self._folder = Path(settings.witness_dir)
        self._kept = timedelta(days=settings.witness_days)
        self._folder_id: str | None = None
        self._next_registration = 0.0
        # The recovery that this process saw last, and since when: it may have been open while nothing ran.
        self._seen: tuple[int, datetime] | None = None

    def step(self) -> bool:
        """Does what can be done now; whether a recovery is open."""
        self._register_now_and_then()
        recovery = self._find_open()
        if recovery is None:
            return False
        with _alone(self._folder) as is_alone:
            if is_alone and self._folder_id is not None:
                self._read_own(recovery)
                self._finish(recovery)
        return True

    def _find_open(self) -> Row[Any] | None:
        with self._database.read() as connection:
            return connection.execute(_OPEN).one_or_none()

    def _register_now_and_then(self) -> None:
        if time.monotonic() >= self._next_registration:
            self._folder_id = register_folder(self._database, self._folder) or self._folder_id
            self._next_registration = time.monotonic() + REGISTER_SECONDS

    def _read_own(self, recovery: Row[Any]) -> None:
        mine = tables.witness_folders.c.folder_id == self._folder_id
        with self._database.read() as connection:
            if (
                connection.execute(select(tables.witness_folders.c.recovery_id).where(mine)).scalar()
                == recovery.id
            ):
                return
        self._await_last_checks()
        with self._database.write() as connection:
            now = wall_clock(connection)
            identity = require_identity(connection, now)
        taken = 0
        highest = dict.fromkeys(("messages", "attempts", "batches"), 0)
        for records in _chunks(read_records(self._folder, identity.database_id, now - self._kept)):
            taken += len(records)
            highest = {name: max(value, *_ids_of(records, name)) for name, value in highest.items()}
            with self._database.write() as connection:
                _take_in(connection, identity, recovery.id, records)
        counter = read_counter(self._folder, identity.database_id)
        with self._database.write() as connection:
            _jump(connection, highest)
            _raise_counter(connection, counter)
            connection.execute(
                update(tables.witness_folders).where(mine).values(recovery_id=recovery.id, posts=taken)
            )

    def _await_last_checks(self) -> None:
        """Those that have not seen the recovery open are over, on every machine, and on this one their lines too."""
        with self._database.write() as connection:
            rate_limit.lock(connection)
        descriptor = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)

    def _finish(self, recovery: Row[Any]) -> None:
        with self._database.read() as connection:
            now = wall_clock(connection)
            folders = _folders(connection, recovery, self._kept)
        if self._seen is None or self._seen[0] != recovery.id:
            self._seen = (recovery.id, now)
        waited = now - self._seen[1]
        is_silent = any(one.recovery_id != recovery.id for one in folders)
        if is_silent and waited < SILENT_AFTER:
            return
        # First, for it may have to be tried again: the rest is done once.
        try:
            fetched = self._fetch()
        except ProviderError as error:
            if waited < INBOX_TRIED_FOR:
                logger.info("a recovery waits for AT's inbox", extra={"reason": error.reason})
                return
            fetched = None
        _give_back_claims(self._database)
        if is_silent or (recovery.reason == RESTORED and not any(one.posts for one in folders)):
            # What was due may have left, and nobody can tell: a person decides.
            _add_held(self._database, recovery.id, held.hold_all_due(self._database, REASON))
        self._close(recovery.id, fetched)

    def _fetch(self) -> int:
        """A STOP first of all. What it brings gets no automatic reply: it may have been answered in the gap."""
        added = 0
        for page in fetch_inbound(self._settings, self._database, self._provider):
            added = page.added
        return added

    def _close(self, recovery_id: int, fetched: int | None) -> None:
        with self._database.write() as connection:
            now = wall_clock(connection)
            still = (tables.recoveries.c.id == recovery_id, tables.recoveries.c.closed_at.is_(None))
            values = {"closed_at": now, "fetched": fetched}
            if not connection.execute(update(tables.recoveries).where(*still).values(**values)).rowcount:
                return
            rollback.close_recovery(connection)
            found = connection.execute(
                select(tables.recoveries).where(tables.recoveries.c.id == recovery_id)
            ).one()
            wake_after_commit(connection)
        logger.warning("the database is recovered", extra=describe(found))


def start(settings: Settings, database: Database, provider: Provider) -> None:
    """In a web process: a machine without a worker has witnesses too, of its triggers."""
    recoverer = Recoverer(settings, database, provider)
    threading.Thread(target=_run, args=(recoverer,), name="recoverer", daemon=True).start()


def _run(recoverer: Recoverer) -> None:
    while True:
        try:
            recoverer.step()
        except (SQLAlchemyError, OSError):
            logger.warning("a recovery waits", exc_info=True)
        time.sleep(LOOK_SECONDS)


def describe(recovery: Row[Any]) -> dict[str, Any]:
    """For the log and for a person."""
    told = ("id", "reason", "posts", "unknown", "without_row", "held", "fetched")
    times = {"from": recovery.gap_from, "to": recovery.opened_at, "closed_at": recovery.closed_at}
    return {
        **{f"recovery_{name}" if name == "id" else name: getattr(recovery, name) for name in told},
        **{name: None if at is None else at.isoformat() for name, at in times.items()},
    }


def register_folder(database: Database, folder: Path) -> str | None:
    """Tells the database of this machine's witnesses; the id of their folder, None where it has none yet."""
    problem = find_problem(folder)
    folder_id = _find_id(folder) or (read_or_make(folder / ID_FILE, ID_BYTES) if problem is None else None)
    if folder_id is None:
        return None
    with database.write() as connection:
        now = wall_clock(connection)
        # So that a copy which is made before anything was sent has it.
        require_identity(connection, now)
        row = {"host": socket.gethostname(), "path": str(folder), "seen_at": now}
        row |= {"problem": problem}
        statement = insert_for(connection, tables.witness_folders).values(folder_id=folder_id, **row)
        connection.execute(
            statement.on_conflict_do_update(index_elements=[tables.witness_folders.c.folder_id], set_=row)
        )
    return folder_id


def _find_id(folder: Path) -> str | None:
    try:
        return (folder / ID_FILE).read_text(encoding="ascii").strip() or None
    except OSError:
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process of this machine recovers at the same time."""
    make_folder(folder)
    descriptor = os.open(folder / READING_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    people = 0
    for one in records:
        if chunk and (people + len(one.message_ids) > MOST_RECIPIENTS or len(chunk) >= MOST_POSTS):
            yield chunk
            chunk, people = [], 0
        chunk.append(one)
        people += len(one.message_ids)
    if chunk:
        yield chunk


def _ids_of(records: Sequence[Record], table: str) -> list[int]:
    if table == "messages":
        return [message_id for one in records for message_id in one.message_ids]
    if table == "attempts":
        return [one.attempt_id for one in records]
    return [origin.batch_id or 0 for one in records for origin in one.origins]


def _take_in(
    connection: Connection,
    identity: Identity,
    recovery_id: int,
    records: Sequence[Record],
) -> None:
    now = wall_clock(connection)
    known = _known_attempts(connection, records)
    lost = [one for one in records if one.token not in known or known[one.token].state not in LEFT]
    if not lost:
        return
    rows = _messages(connection, [message_id for one in lost for message_id in one.message_ids])
    new_ids = iter(reserve_ids(connection, tables.attempts, len(lost)))
    counts = {"posts": len(lost), "unknown": 0, "without_row": 0}
    moved: set[int] = set()
    for one in lost:
        pairs = list(zip(one.message_ids, one.recipients, strict=True))
        found = {
            message_id for message_id, digest in pairs if _fits(rows.get(message_id), identity, one, digest)
        }
        unknown = [each for each in found if rows[each].status in MAY_LEAVE and each not in moved]
        moved.update(unknown)
        existing = known.get(one.token)
        attempt_id = existing.id if existing is not None else next(new_ids)
        _write_attempt(connection, one, attempt_id, existing is None, rows, unknown, now)
        _make_unknown(connection, attempt_id, unknown, now)
        gone = [
            (place, digest) for place, (message_id, digest) in enumerate(pairs) if message_id not in found
        ]
        _keep(connection, recovery_id, attempt_id, one, gone)
        if one.budget is not None:
            budgets.charge_loss(connection, *one.budget)
        counts["unknown"] += len(unknown)
        counts["without_row"] += len(gone)
    _count(connection, recovery_id, counts, min(one.posting_at for one in lost))


def _known_attempts(connection: Connection, records: Sequence[Record]) -> Mapping[str, Any]:
    found = connection.execute(
        select(tables.attempts.c.id, tables.attempts.c.token, tables.attempts.c.state).where(
            tables.WITH_TOKEN, one_of(tables.attempts.c.token, "tokens")
        ),
        {"tokens": [one.token for one in records]},
    )
    return {row.token: row for row in found}


def _messages(connection: Connection, ids: Sequence[int]) -> Mapping[int, Any]:
    columns = ("id", "recipient", "sender_id", "text", "status", "created_at")
    wanted = select(*(tables.messages.c[name] for name in columns)).where(one_of(tables.messages.c.id, "ids"))
    return {row.id: row for row in connection.execute(wanted.with_for_update(), {"ids": sorted(set(ids))})}


def _fits(row: Row[Any] | None, identity: Identity, record: Record, recipient: str) -> bool:
    """Whether this row is the text that left: since the backup was put back its id may have been given again."""
    return (
        row is not None
        and row.created_at <= record.posting_at
        and identity.digest(row.recipient) == recipient
        and digest_of_text(identity, row.sender_id, row.text) == record.text
    )


def _write_attempt(
    connection: Connection,
    record: Record,
    attempt_id: int,
    is_new: bool,
    rows: Mapping[int, Any],
    unknown: Sequence[int],
    now: datetime,
) -> None:
    values = {
        "state": "unknown",
        "message_count": len(unknown),
        "posting_at": record.posting_at,
        "finished_at": now,
        "outcome": "unknown",
        "reason": REASON,
    }
    if is_new:
        about = {
            "id": attempt_id,
            "token": record.token,
            "worker": SOURCE,
            "is_trigger": record.is_trigger,
            "sender_id": rows[unknown[0]].sender_id if unknown else None,
            "claimed_at": record.posting_at,
            "lease_until": record.posting_at,
        }
        connection.execute(insert(tables.attempts).values(**about, **values))
        return
    connection.execute(update(tables.attempts).where(tables.attempts.c.id == attempt_id).values(**values))
    # Those of its texts that its last check left out.
    rest = (tables.messages.c.attempt_id == attempt_id, last_check.IS_SENDING)
    others = tables.messages.c.id.not_in(unknown)
    connection.execute(
        update(tables.messages).where(*rest, others).values(status=statuses.QUEUED, attempt_id=None)
    )


def _make_unknown(connection: Connection, attempt_id: int, ids: Sequence[int], now: datetime) -> None:
    values = {"status": statuses.UNKNOWN, "reason": REASON, "attempt_id": attempt_id}
    connection.execute(
        update(tables.messages).where(one_of(tables.messages.c.id, "ids")).values(**values),
        {"ids": list(ids)},
    )
    happened = [
        status_events.Event(one, now, statuses.UNKNOWN, SOURCE, attempt_id, REASON) for one in sorted(ids)
    ]
    status_events.record(connection, happened)


def _keep(
    connection: Connection, recovery_id: int, attempt_id: int, record: Record, gone: Sequence[tuple[int, str]]
) -> None:
    about = {
        "recovery_id": recovery_id,
        "attempt_id": attempt_id,
        "posting_at": record.posting_at,
        "text": record.text,
    }
    rows = [{**about, "recipient": digest, **record.origin_of(place)._asdict()} for place, digest in gone]
    if rows:
        connection.execute(insert(tables.lost_texts), rows)


def _count(connection: Connection, recovery_id: int, counts: Mapping[str, int], first_at: datetime) -> None:
    mine = tables.recoveries.c
    added: dict[str, Any] = {name: mine[name] + number for name, number in counts.items()}
    connection.execute(update(tables.recoveries).where(mine.id == recovery_id).values(**added))
    earlier = (mine.id == recovery_id, or_(mine.gap_from.is_(None), mine.gap_from > first_at))
    connection.execute(update(tables.recoveries).where(*earlier).values(gap_from=first_at))


def _jump(connection: Connection, highest: Mapping[str, int]) -> None:
    """By table: no id that somebody may have been told is given again."""
    for table, value in highest.items():
        if connection.dialect.name == "sqlite":
            _keep_highest(connection, highest_id_name(table), value)
        else:
            connection.execute(_JUMP, {"sequence": f"{table}_id_seq", "highest": max(value, 1)})


def _keep_highest(connection: Connection, name: str, value: int) -> None:
    counters = tables.counters.c
    statement = insert_for(connection, tables.counters).values(name=name, value=value)
    kept = {"value": func.max(counters.value, value)}
    connection.execute(statement.on_conflict_do_update(index_elements=[counters.name], set_=kept))


def _raise_counter(connection: Connection, counter: int) -> None:
    mine = tables.database_identity.c
    lower = (mine.id == ROW_ID, mine.counter < counter)
    connection.execute(update(tables.database_identity).where(*lower).values(counter=counter))


def _folders(connection: Connection, recovery: Row[Any], kept: timedelta) -> Sequence[Row[Any]]:
    """Without the machines that are gone for so long that their files would be, too."""
    since = (recovery.gap_from or recovery.opened_at) - kept
    lately = tables.witness_folders.c.seen_at >= since
    return connection.execute(select(tables.witness_folders).where(lately)).all()


def _add_held(database: Database, recovery_id: int, count: int) -> None:
    mine = tables.recoveries.c
    with database.write() as connection:
        connection.execute(
            update(tables.recoveries).where(mine.id == recovery_id).values(held=mine.held + count)
        )


def _give_back_claims(database: Database) -> None:
    """Whoever held them has dropped them at its last check, or is dead."""
    while True:
        with database.write() as connection:
            now = wall_clock(connection)
            claimed = (tables.OPEN, tables.attempts.c.state == "claimed")
            found = connection.execute(
                select(tables.attempts.c.id, tables.attempts.c.is_trigger).where(*claimed).limit(CHUNK)
            ).all()
            for one in found:
                if one.is_trigger:
                    start_post.cancel(connection, one.id, "worker_died", now)
                else:
                    last_check.release(connection, one.id)
        if not found:
            return
