"""What is paused now, why, and since when. A pause keeps rows `queued`: a bad account costs no recipient.

While the account is paused, a probe asks AT for the balance within a minute, which sends nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, or_, select, update

from messaging.access import actions
from messaging.costs.balance import keep, write_down
from messaging.messages.pause_names import ACCOUNT, sender_name
from messaging.sending import circuit_breaker
from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database, wake_after_commit
from utils.errors import ProviderError
from utils.sms_utils import ProviderClient

# With the looks of the workers (`worker.process.PROBE_LOOK_SECONDS`) added, under a minute.
PROBE_INTERVAL = timedelta(seconds=45)
PROBE_DEADLINE_SECONDS = 10.0

_NAMES = select(tables.pauses.c.name)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pauses:
    names: Set[str]

    @property
    def account(self) -> bool:
        return ACCOUNT in self.names

    def holds(self, sender_id: str | None) -> bool:
        return self.account or sender_name(sender_id) in self.names


def current(connection: Connection) -> Pauses:
    return Pauses(frozenset(connection.execute(_NAMES).scalars()))


def pause(connection: Connection, name: str, reason: str, detail: str | None, now: datetime) -> None:
    """Keeps the first reason: it is the one that began the pause."""
    if name not in current(connection).names:
        logger.warning("sending is paused", extra={"pause": name, "reason": reason})
    row = {
        "name": name,
        "reason": reason,
        "detail": detail,
        "since": now,
        "probed_at": steady(connection, now),
    }
    insert_or_ignore(connection, tables.pauses, row)


def resume(connection: Connection, name: str | None = None) -> int:
    """Lifts one pause, or all; returns how many. The commit wakes a worker."""
    statement = (
        delete(tables.pauses) if name is None else delete(tables.pauses).where(tables.pauses.c.name == name)
    )
    lifted = connection.execute(statement).rowcount
    if lifted:
        logger.info("sending is resumed", extra={"pause": name or "all", "lifted": lifted})
        wake_after_commit(connection)
    return lifted


def resume_now(database: Database, sender_id: str | None) -> int:
    """A person's decision: one sender id, or everything that is paused."""
    with database.write(settled=True) as connection:
        before = {"paused": sorted(current(connection).names)}
        lifted = resume(connection, None if sender_id is None else sender_name(sender_id))
        after = {"paused": sorted(current(connection).names)}
        actions.note(connection, "sending.resume", f"sender:{sender_id or 'all'}", before, after)
        return lifted


def take_probe(database: Database) -> bool:
    """Whether the account is paused and this caller is the one to ask AT now: one of all workers in an interval.

    Asked every few seconds: while nothing is paused it takes no lock.
    """
    with database.read() as connection:
        if not current(connection).account:
            return False
    with database.write() as connection:
        now = steady(connection, wall_clock(connection))
        statement = (
            update(tables.pauses)
            .where(tables.pauses.c.name == ACCOUNT)
            # The second: PostgreSQL's clock that was set back must not stop the probes.
            .where(or_(tables.pauses.c.probed_at <= now - PROBE_INTERVAL, tables.pauses.c.probed_at > now))
            .values(probed_at=now)
        )
        return connection.execute(statement).rowcount > 0


def probe(database: Database, provider: ProviderClient) -> bool:
    """Whether the account's pause was lifted: AT took our key, and there is money."""
    if not take_probe(database):
        return False
    try:
        balance = provider.fetch_balance(deadline_seconds=PROBE_DEADLINE_SECONDS)
    except ProviderError as error:
        logger.warning("the account stays paused", extra={"reason": error.reason})
        return False
    if balance.amount <= 0:
        keep(database, balance)
        logger.warning("the account stays paused", extra={"reason": "insufficient_balance"})
        return False
    with database.write() as connection:
        resume(connection, ACCOUNT)
        write_down(connection, balance, wall_clock(connection))
        # There may be money, and too little: one message finds out, not a full POST of every thread each minute.
        circuit_breaker.half_open(connection, wall_clock(connection))
    return True
