"""Whether the database went backwards: a backup was put back, or a replica that lacks the last commits took over.

Three things tell. This machine's witnesses name attempts that the database must have. Each heartbeat raises a
counter, which never falls. And the database names the PostgreSQL cluster, database and timeline that it was last
at home in: of a dump that was restored, or a replica that was promoted, one of them is another.

Whoever may send asks in the transaction that claims, and again in that of the last check. What is found opens a
recovery; until it is closed nobody sends.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, TextClause, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from messaging.storage import tables
from messaging.storage.bulk import as_array
from messaging.storage.identity import ROW_ID, Identity, require_identity
from messaging.storage.retrying import is_passing
from utils.errors import Recovering

POST_MISSING = "post_missing"
COUNTER_FELL = "counter_fell"
PLACE_CHANGED = "place_changed"
RESTORED = "restored"
# States of an attempt whose bytes may have left.
LEFT = ("posting", "recorded", "unknown")
# The last POSTs of all threads: two that were under way at once may have been committed in any order.
MOST_TOKENS = 16
_CHECK = "rollback_check"

_ROW = select(tables.database_identity).where(tables.database_identity.c.id == ROW_ID)
_SET = update(tables.database_identity).where(tables.database_identity.c.id == ROW_ID)
# pg_walfile_name names the timeline that is written now; pg_control_checkpoint() that of the last checkpoint, which
# a promoted replica has not made yet. Any role may call these.
_OIDS = "(SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || 'attempts'::regclass::oid"
_CLUSTER = "(SELECT system_identifier FROM pg_control_system())"
_PLACES = (
    f"{_CLUSTER} || '/' || {_OIDS} || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)",
    # Some hosted servers have no names of log files, or keep these functions for themselves.
    f"{_CLUSTER} || '/' || {_OIDS}",
    _OIDS,
)
# By text, and all in one: it is asked at each claim and each last check. An attempt that is there has one of the
# states in which its bytes may have left.
_LOOK = """
    SELECT database_id, hash_key, counter, place, recovery_id, {place} AS here,
        (SELECT count(*) FROM attempts WHERE token IS NOT NULL AND token {among}
            AND state IN ('posting', 'recorded', 'unknown')) AS found
    FROM database_identity WHERE id = 1
"""
_LOOK_AT_FILE = _LOOK.format(place="NULL", among="IN (SELECT value FROM json_each(?))")

logger = logging.getLogger(__name__)


class WentBackwards(Recovering):
    """Found in a transaction, which is given up; `Database.write` then opens a recovery."""

    def __init__(self, reason: str) -> None:
        super().__init__(details={"reason": reason})
        self.reason = reason


class Remembered(NamedTuple):
    """What this machine's witnesses hold of a database: the tokens of the last POSTs, and the counter."""

    tokens: list[str]
    counter: int


class Beat(NamedTuple):
    """So high must the counter of this database be from now on."""

    database_id: str
    counter: int


class _Look(NamedTuple):
    """What the database says of itself, where it is, and how many of the attempts that were asked for it has.

    `known`: what this process knew before it asked. A heartbeat that commits between the answer and the comparison
    would else look like a counter that fell.
    """

    database_id: str
    hash_key: bytes
    counter: int
    place: str | None
    recovery_id: int | None
    here: str | None
    found: int
    known: Remembered


class RollbackCheck:
    """What one process remembers of its database.

    `recall`: reads what this machine has written outside of it, once for each database id.
    """

    def __init__(self) -> None:
        self.recall: Callable[[str], Remembered] = lambda _database_id: Remembered([], 0)
        self._lock = threading.Lock()
        self._database_id: str | None = None
        self._tokens: deque[str] = deque(maxlen=MOST_TOKENS)
        self._counter = 0
        self._look_at_server: TextClause | None = None

    def attach(self, record: Any) -> None:
        """To the record of a new connection in the pool, so that `require` finds it."""
        record.info[_CHECK] = self

    def require(self, connection: Connection, now: datetime) -> Identity:
        """In the write transaction of whatever must not be done twice. Raises Recovering."""
        look = self._look(connection)
        if look is None:
            return require_identity(connection, now)
        if look.recovery_id is not None:
            raise Recovering
        reason = self._reason(look)
        if reason is not None:
            raise WentBackwards(reason)
        return Identity(look.database_id, bytes(look.hash_key))

    def _look(self, connection: Connection) -> Any:
        """The one row with what is there of what should be; None where there is none yet."""
        look = self._ask(connection, self._known_of(None))
        if look is not None and look.database_id != self._database_id:
            look = self._ask(connection, self._known_of(look.database_id))
        return look

    def _ask(self, connection: Connection, known: Remembered) -> Any:
        if connection.dialect.name == "sqlite":
            found: Any = connection.exec_driver_sql(_LOOK_AT_FILE, (json.dumps(known.tokens),)).one_or_none()
        else:
            found = connection.execute(
                self._statement(connection), {"tokens": as_array(known.tokens)}
            ).one_or_none()
        return None if found is None else _Look._make((*found, known))

    def _reason(self, look: _Look) -> str | None:
        if look.counter < look.known.counter:
            return COUNTER_FELL
        if look.place is not None and look.place != look.here:
            return PLACE_CHANGED
        return POST_MISSING if look.found < len(look.known.tokens) else None

    def left(self, database_id: str, token: str) -> None:
        """This attempt is in the witness: from now on the database must have it."""
        with self._lock:
            if database_id == self._database_id:
                self._tokens.append(token)

    def beat(self, connection: Connection, now: datetime) -> Beat | None:
        """Raises the counter. The result is for `seen`, after the commit. Raises WentBackwards."""
        require_identity(connection, now)
        connection.execute(_ROW.with_for_update())
        look = self._look(connection)
        if look.recovery_id is not None:
            return None
        reason = self._reason(look)
        if reason is not None:
            raise WentBackwards(reason)
        connection.execute(_SET.values(counter=look.counter + 1, beat_at=now, place=look.here))
        return Beat(look.database_id, look.counter + 1)

    def seen(self, beat: Beat) -> None:
        with self._lock:
            if beat.database_id == self._database_id:
                self._counter = max(self._counter, beat.counter)

    def open_if_needed(self, connection: Connection, now: datetime) -> None:
        """Several threads find it at once, and the first one may have been recovered from already."""
        connection.execute(_ROW.with_for_update())
        look = self._look(connection)
        reason = self._reason(look)
        if look.recovery_id is None and reason is not None:
            self.open(connection, reason, now)

    def open(self, connection: Connection, reason: str, now: datetime) -> int | None:
        """Writes down that a recovery is needed; None where one is open already."""
        require_identity(connection, now)
        row = connection.execute(_ROW.with_for_update()).one()
        if row.recovery_id is not None:
            return None
        values = {"reason": reason, "opened_at": now, "gap_from": row.beat_at}
        added = connection.execute(insert(tables.recoveries).values(**values))
        recovery_id = int(added.inserted_primary_key[0])  # type: ignore[index]
        connection.execute(_SET.values(recovery_id=recovery_id))
        note = {"recovery_id": recovery_id, "reason": reason}
        logger.error(
            "the database went backwards: nothing is sent until it is known what has left", extra=note
        )
        return recovery_id

    def close(self, connection: Connection) -> None:
        """The recovery has raised the counter to the highest that any witness has."""
        connection.execute(_SET.values(place=self._look(connection).here, recovery_id=None))

    def _known_of(self, database_id: str | None) -> Remembered:
        """`database_id`: as it has just been read; None: of the one that was read last."""
        with self._lock:
            if database_id not in (None, self._database_id):
                found = self.recall(database_id)
                self._database_id = database_id
                self._tokens = deque(found.tokens, maxlen=MOST_TOKENS)
                self._counter = found.counter
            return Remembered(list(self._tokens), self._counter)

    def _statement(self, connection: Connection) -> TextClause:
        if self._look_at_server is None:
            place = next(one for one in _PLACES if _works(connection, f"SELECT {one}"))
            among = "= ANY(CAST(:tokens AS text[]))"
            self._look_at_server = text(_LOOK.format(place=place, among=among))
        return self._look_at_server


def require(connection: Connection, now: datetime) -> Identity:
    """In the write transaction of whatever must not be done twice. Raises Recovering."""
    return _check_of(connection).require(connection, now)


def open_recovery(connection: Connection, reason: str, now: datetime) -> int | None:
    """Writes down that a recovery is needed; None where one is open already."""
    return _check_of(connection).open(connection, reason, now)


def close_recovery(connection: Connection) -> None:
    """The recovery has raised the counter to the highest that any witness has."""
    _check_of(connection).close(connection)


def _check_of(connection: Connection) -> RollbackCheck:
    check: RollbackCheck = connection.info[_CHECK]
    return check


def _works(connection: Connection, statement: str) -> bool:
    """Raises DBAPIError where the database went away meanwhile: that says nothing about the statement."""
    try:
        with connection.begin_nested():
            connection.execute(text(statement))
    except DBAPIError as error:
        if is_passing(error):
            raise
        return False
    return True


def is_recovering(connection: Connection) -> bool:
    """For what merely waits: it asks nothing but whether a recovery is open."""
    return bool(connection.execute(_OPEN).scalar())


_OPEN = select(tables.database_identity.c.recovery_id.is_not(None)).where(
    tables.database_identity.c.id == ROW_ID
)
