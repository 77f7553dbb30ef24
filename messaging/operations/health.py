"""Whether this service can do its work now, and what is wrong where it cannot.

Each worker process writes a heartbeat, one row of its own, every few seconds.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import psycopg
import redis
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from messaging.callbacks import received
from messaging.operations import recovery_views
from messaging.service import Service
from messaging.storage import revisions, tables
from messaging.storage.bulk import insert_for
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from messaging.storage.rollback import Beat
from messaging.storage.task_queue import QUEUE_ERRORS
from utils.errors import ServiceError, StorageUnavailable
from utils.private_files import make_private
from utils.setting_types import sqlite_path

OK = "ok"
HEARTBEAT_INTERVAL = timedelta(seconds=5)
ALIVE_WITHIN = timedelta(seconds=30)
QUEUE_TIMEOUT_SECONDS = 2
# An unreachable server, a full or read-only disk, a lock that never came free, a pool with nothing to lend.
STORAGE_ERRORS: tuple[type[Exception], ...] = (OperationalError, InterfaceError, PoolTimeout)

logger = logging.getLogger(__name__)
Check = Callable[[], str | None]


class NotMigrated(ServiceError):
    code = "not_migrated"
    sentence = "The database is not migrated: run `flask --app app sms migrate`"


def require_migrated(database: Database) -> None:
    """Raises NotMigrated, DatabaseIsNewer; StorageUnavailable where the database cannot be used at all."""
    try:
        with database.read() as connection:
            is_current = revisions.is_current(connection)
    except STORAGE_ERRORS as error:
        raise StorageUnavailable(f"The database cannot be used: {_first_line(error)}") from error
    if not is_current:
        raise NotMigrated


def explain_storage_error(database: Database, error: SQLAlchemyError) -> ServiceError:
    """The error a person is told: tables that are not there yet look like any other failed statement."""
    if isinstance(error, (OperationalError, ProgrammingError)):
        try:
            require_migrated(database)
        except ServiceError as found:
            return found
    return StorageUnavailable(f"The database cannot be used: {_first_line(error)}")


@dataclass(frozen=True, slots=True)
class Readiness:
    """`checks`: what each part says, `ok` or what is wrong with it. `can_store`: callbacks can be taken here."""

    checks: dict[str, str]
    can_store: bool


def readiness(service: Service) -> Readiness:
    """A queue that is down and a worker that stopped delay texts; they keep no process from taking callbacks."""
    needed: dict[str, Check] = {
        "database": partial(_database_problem, service.database),
        "inbox": partial(_inbox_problem, service),
    }
    told: dict[str, Check] = {
        "queue": partial(queue_problem, service.settings.queue_url),
        "worker": partial(worker_problem, service.database),
    }
    checks = {name: check() or OK for name, check in (needed | told).items()}
    return Readiness(checks, all(checks[name] == OK for name in needed))


def sending_state(service: Service) -> dict[str, str]:
    """What may keep texts from leaving. It makes nobody unready: callbacks must come in all the same."""
    try:
        with service.database.read() as connection:
            recovery = recovery_views.open_recovery(connection)
            folders = recovery_views.unwritable(connection)
    except SQLAlchemyError:
        return dict.fromkeys(("witness", "recovery"), "not known: the database cannot be used")
    witness = ", ".join(f"{name}: {why}" for name, why in sorted(folders.items()))
    return {
        "witness": f"nothing is sent, it cannot be written: {witness}" if folders else OK,
        "recovery": OK if recovery is None else recovery_views.sentence_of(recovery),
    }


def _database_problem(database: Database) -> str | None:
    try:
        with database.read() as connection:
            connection.execute(select(tables.messages.c.id).limit(1))
    except SQLAlchemyError:
        logger.warning("the database cannot be used", exc_info=True)
        return "cannot be used"
    return None


def queue_problem(url: str) -> str | None:
    """None where the task engine's store answers."""
    try:
        _reach_queue(url)
    except QUEUE_ERRORS:
        logger.warning("the task queue cannot be reached", exc_info=True)
        return "cannot be reached"
    return None


def _reach_queue(url: str) -> None:
    path = sqlite_path(url)
    if path is not None:
        # A web process that asks before any worker has started makes the file.
        make_private(path)
        with contextlib.closing(sqlite3.connect(path, timeout=QUEUE_TIMEOUT_SECONDS)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
    elif url.startswith("postgresql://"):
        psycopg.connect(url, connect_timeout=QUEUE_TIMEOUT_SECONDS).close()
    else:
        timeouts = {
            "socket_timeout": QUEUE_TIMEOUT_SECONDS,
            "socket_connect_timeout": QUEUE_TIMEOUT_SECONDS,
        }
        with redis.Redis.from_url(url, **timeouts) as client:
            client.ping()


def worker_problem(database: Database) -> str | None:
    """None where a worker was seen lately."""
    try:
        is_alive = is_worker_alive(database)
    except SQLAlchemyError:
        return "not known: the database cannot be used"
    return None if is_alive else f"none seen for {ALIVE_WITHIN.total_seconds():.0f} seconds"


def _inbox_problem(service: Service) -> str | None:
    return None if service.callback_receiver.is_alive() else "the thread that stores callbacks has ended"


def oldest_report_seconds(service: Service) -> float | None:
    """How long the oldest delivery report that is stored has waited to be applied: 0.0 where none waits.

    None where the database cannot be used. Late statuses make nobody unready: reports are taken all the same.
    """
    try:
        with service.database.read() as connection:
            waited = received.oldest_wait(connection)
    except SQLAlchemyError:
        return None
    return round(waited.total_seconds(), 3) if waited else 0.0


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def beat(database: Database, worker: str) -> Beat | None:
    """What must be remembered outside of the database; None during a recovery. Raises WentBackwards."""
    with database.write() as connection:
        database.clocks.look(connection)
        wall = wall_clock(connection)
        now = steady(connection, wall)
        statement = insert_for(connection, tables.heartbeats).values(worker=worker, seen_at=now)
        statement = statement.on_conflict_do_update(
            index_elements=[tables.heartbeats.c.worker], set_={"seen_at": now}
        )
        connection.execute(statement)
        return database.rollback.beat(connection, wall)


def is_worker_alive(database: Database) -> bool:
    with database.read() as connection:
        return is_alive_at(connection, wall_clock(connection))


def is_alive_at(connection: Connection, now: datetime) -> bool:
    latest = connection.execute(select(func.max(tables.heartbeats.c.seen_at))).scalar()
    return latest is not None and steady(connection, now) - latest < ALIVE_WITHIN
