from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, NestedTransaction, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from messaging.storage.bulk import as_array
from messaging.storage.clocks import Clocks, wall_clock
from messaging.storage.commit_tokens import leave_token, was_committed
from messaging.storage.group_commit import GroupCommit
from messaging.storage.read_limits import within_limit
from messaging.storage.rollback import RollbackCheck, WentBackwards
from messaging.storage.sqlite_write_lock import SqliteWriteLock
from utils.errors import StorageUnavailable
from utils.private_files import make_private, make_private_folder

SQLITE_BUSY_SECONDS = 30
# 64 MB, after which a commit writes SQLite's log back into the file. messaging.batches.import_pace.
LONGEST_LOG_PAGES = 16_000
# A machine that freezes or drops off the network in mid-transaction leaves its session, and its locks, to
# PostgreSQL for as long as TCP takes to notice: two hours, in which nobody could claim or record anything.
IDLE_IN_TRANSACTION_SECONDS = 20
# A line that dies without a word (a firewall that forgets it, a machine that loses power) would hold its thread for
# as long as this system's TCP takes: fifteen minutes where bytes were sent, for ever where an answer is awaited.
LINE_CHECKS = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
WAKES_WORKER = "wakes_worker"
FORWARDS = "forwards"
IS_TEST = "is_test"
AFTER_COMMIT = "after_commit"
LOCK = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(key, 0))"
    " FROM (SELECT unnest(CAST(:keys AS text[])) AS key ORDER BY 1) AS wanted"
)


def _wake_nobody() -> None:
    return None


class Database:
    """The engine, and the two ways in: `read()` and `write()`, each one transaction.

    A function that takes part in a transaction needs its connection and nothing else: `wall_clock`, `steady`,
    `reserve_ids`, `wake_after_commit`, `after_commit` and `rollback.require` find what they need there.

    On SQLite a write takes a process-wide lock and `BEGIN IMMEDIATE`: threads queue here in
    order, which SQLite's own busy wait (polling, p99 303 ms against 20 ms) does badly. Processes: `SqliteWriteLock`.
    """

    def __init__(self, sqlalchemy_url: str, pool_size: int = 20) -> None:
        url = make_url(sqlalchemy_url)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.wake: Callable[[], None] = _wake_nobody
        # A full disk can be read from all the same.
        self.last_write_failed = False
        # Whether facts are also written as events for the operator's own system.
        self.forwards = False
        # Whether those events say that they are of a test key.
        self.is_test = False
        self.clocks = Clocks()
        self.rollback = RollbackCheck()
        self._write_lock = threading.Lock()
        self._file_lock: SqliteWriteLock | None = None
        self.group_commit = GroupCommit(self.write)
        if self.is_sqlite:
            path = Path(url.database or "")
            make_private_folder(path.parent)
            self._file_lock = SqliteWriteLock(path.with_name(f"{path.name}-write-lock"))
        self.engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=pool_size,
            # The warm ones first: taken in turn, each would fill its page cache, 16 MB on SQLite.
            pool_use_lifo=True,
            # An error of the store would quote numbers and texts, and errors are logged.
            hide_parameters=True,
            # A server that restarted leaves dead connections in the pool: one look before use.
            pool_pre_ping=not self.is_sqlite,
            connect_args=_connect_arguments(self.is_sqlite),
        )
        event.listen(self.engine, "connect", self._attach)
        event.listen(self.engine, "begin", self.clocks.begin)
        if self.is_sqlite:
            event.listen(self.engine, "do_connect", lambda *_: make_private(path))
            event.listen(self.engine, "connect", _prepare_sqlite_connection)
            event.listen(self.engine, "begin", _begin_sqlite_transaction)
        self._writer = self.engine.execution_options(immediate=True)

    def _attach(self, _connection: Any, record: Any) -> None:
        """What functions of a transaction find at its connection."""
        self.clocks.attach(record)
        self.rollback.attach(record)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self.engine.connect() as connection, within_limit(connection):
            yield connection

    @contextmanager
    def write(self, *, settled: bool = False) -> Iterator[Connection]:
        """One transaction, committed at the end. Wakes a worker afterwards where `wake_after_commit` was called.

        `settled`: for what must not be done twice. Where the connection ends at COMMIT, it is found out whether it
        was done: it returns, or raises StorageUnavailable, or AcceptanceUnknown where that cannot
        be found out. It costs PostgreSQL one more insert. SQLite itself tells whether a commit was done.

        Where it finds that the database went backwards, it does nothing and opens a recovery. Raises Recovering.
        """
        token: str | None = None
        is_waking = is_at_commit = False
        acts: list[Callable[[], None]] = []
        try:
            with self.write_lock(), self._writer.begin() as connection, _noting(connection, acts):
                connection.info.pop(WAKES_WORKER, None)
                connection.info[FORWARDS] = self.forwards
                connection.info[IS_TEST] = self.is_test
                if settled and not self.is_sqlite:
                    token = leave_token(connection)
                yield connection
                is_waking = bool(connection.info.pop(WAKES_WORKER, None))
                is_at_commit = True
        except WentBackwards:
            self._open_recovery()
            raise
        except DBAPIError as error:
            self.last_write_failed |= isinstance(error, OperationalError)
            # A server that refuses a commit says so on a connection that lives on.
            if token is None or not is_at_commit or not error.connection_invalidated:
                raise
            if not was_committed(self.engine, token):
                raise StorageUnavailable from error
        self.last_write_failed = False
        if is_waking:
            self.wake()
        for act in acts:
            act()

    def _open_recovery(self) -> None:
        with self.write() as connection:
            self.rollback.open_if_needed(connection, wall_clock(connection))

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """On SQLite no other thread or process writes meanwhile."""
        if self._file_lock is None:
            yield
            return
        with self._write_lock, self._file_lock.held():
            yield

    def truncate_log(self) -> bool:
        """Writes SQLite's log back and empties it; whether that could be done. A long read keeps it from that."""
        connection = self.engine.raw_connection()
        try:
            with self.write_lock():
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy
        finally:
            connection.close()

    def close(self) -> None:
        self.engine.dispose()
        if self._file_lock is not None:
            self._file_lock.close()


def after_commit(connection: Connection, act: Callable[[], None]) -> None:
    """For what shall be said only of what was done: `act` is called once this write transaction is committed, unless
    its `savepoint` is rolled back."""
    connection.info[AFTER_COMMIT].append(act)


@contextmanager
def _noting(connection: Connection, acts: list[Callable[[], None]]) -> Iterator[None]:
    # It belongs to the connection in the pool, and cannot be asked for once that one is lost.
    info = connection.info
    info[AFTER_COMMIT] = acts
    try:
        yield
    finally:
        # A later read on this connection has no commit to wait for.
        info.pop(AFTER_COMMIT, None)


@contextmanager
def savepoint(connection: Connection) -> Iterator[NestedTransaction]:
    """Of a write transaction. Where it is rolled back, what it asked for `after_commit` is left out."""
    acts = connection.info[AFTER_COMMIT]
    before = len(acts)
    is_kept = False
    try:
        with connection.begin_nested() as nested:
            yield nested
            is_open = nested.is_active
        is_kept = is_open
    finally:
        if not is_kept:
            del acts[before:]


def wake_after_commit(connection: Connection) -> None:
    connection.info[WAKES_WORKER] = True


def _connect_arguments(is_sqlite: bool) -> dict[str, Any]:
    if is_sqlite:
        return {"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False}
    # Compiling a claim took 1.4 s, running it 30 ms: our statements stop early, and JIT goes by the cost of all rows.
    options = (
        f"-c timezone=UTC -c jit=off -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_SECONDS}s"
    )
    return {"connect_timeout": 10, "options": options} | LINE_CHECKS


def _prepare_sqlite_connection(connection: Any, _record: Any) -> None:
    # The sqlite3 module's own BEGIN is deferred and comes late; ours is explicit (see below).
    connection.isolation_level = None
    cursor = connection.cursor()
    # Before anything is in the file, else it is without effect; a file that has it would be written to each time.
    if cursor.execute("PRAGMA page_count").fetchone() == (0,):
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: a commit survives a power cut. NORMAL gained nothing where it was measured.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # What is erased or deleted is overwritten in the file, too.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.execute("PRAGMA cache_size=-16000")
    cursor.execute(f"PRAGMA wal_autocheckpoint={LONGEST_LOG_PAGES}")
    cursor.close()


def _begin_sqlite_transaction(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def lock_keys(connection: Connection, keys: Sequence[str]) -> None:
    """Until the transaction ends, nobody else holds these keys. On SQLite the write transaction is that lock."""
    if connection.dialect.name == "sqlite":
        return
    # Sorted, so that two transactions with several keys in common cannot wait for each other.
    connection.execute(LOCK, {"keys": as_array(sorted(set(keys)))})
