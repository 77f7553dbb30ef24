"""How often a password may be guessed: counted by name and by address in the database, so for all processes at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, select

from messaging.storage import tables
from messaging.storage.bulk import insert_for
from messaging.storage.clocks import steady, wall_clock
from messaging.storage.database import Database
from utils.backoff import backoff
from utils.errors import ServiceError

# Then each further failure doubles the wait.
FREE_TRIES = 5
FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(minutes=15)
# Without a failure for so long it begins anew.
FORGOTTEN_AFTER = timedelta(hours=1)


class TooManyTries(ServiceError):
    code = "too_many_tries"

    def __init__(self, what: str, wait: timedelta) -> None:
        """`what`: of which a wrong one was tried."""
        self.retry_after = max(1, math.ceil(wait.total_seconds()))
        super().__init__(f"Too many tries with a wrong {what}: wait {self.retry_after} seconds")


def require_free(database: Database, name: str | None, address: str | None) -> None:
    """Raises TooManyTries, also for the right password: else the answer would tell which one that is."""
    with database.read() as connection:
        now = steady(connection, wall_clock(connection))
        until = tables.login_failures.c.locked_until
        statement = select(until).where(tables.login_failures.c.who.in_(_counted(name, address)), until > now)
        locked = max(connection.execute(statement).scalars(), default=None)
    if locked is not None:
        raise TooManyTries("password", locked - now)


def count_failure(database: Database, name: str | None, address: str | None) -> None:
    with database.write() as connection:
        count(
            connection,
            dict.fromkeys(_counted(name, address), 1),
            steady(connection, wall_clock(connection)),
        )


def forget(database: Database, name: str) -> None:
    """After the right password. Those of an address stay: one known password must not pay for guesses at others."""
    with database.write() as connection:
        connection.execute(delete(tables.login_failures).where(tables.login_failures.c.who == f"name:{name}"))


def forget_old(connection: Connection, now: datetime) -> None:
    """`now`: in steady time."""
    delete_unlocked(connection, tables.login_failures.c.failed_at < now - FORGOTTEN_AFTER)


def delete_unlocked(connection: Connection, *which: ColumnElement[bool]) -> None:
    """But for rows that somebody is just counting in (`count`): whoever waits for nobody is in nobody's way."""
    who = tables.login_failures.c.who
    unlocked = select(who).where(*which).order_by(who).with_for_update(skip_locked=True)
    connection.execute(delete(tables.login_failures).where(who.in_(unlocked)))


def _counted(name: str | None, address: str | None) -> list[str]:
    """A name that nobody has is not counted: a stranger would fill the table with them."""
    return [f"name:{name}"] * (name is not None) + [f"address:{address}"[:80]] * (address is not None)


def count(
    connection: Connection, failures: Mapping[str, int], now: datetime, free_tries: int = FREE_TRIES
) -> dict[str, datetime]:
    """Until when each of them has to wait; in steady time, as `now` is."""
    who = tables.login_failures.c.who
    # In one order, so that two processes cannot wait for each other.
    statement = select(tables.login_failures).where(who.in_(failures)).order_by(who).with_for_update()
    known = {row.who: row for row in connection.execute(statement)}
    rows, ends = [], {}
    for name in sorted(failures):
        row = known.get(name)
        is_fresh = row is not None and row.failed_at > now - FORGOTTEN_AFTER
        number = failures[name] + (row.failures if row is not None and is_fresh else 0)
        over = number - free_tries
        ends[name] = now + backoff(over, FIRST_WAIT, LONGEST_WAIT) if over >= 0 else now
        rows.append({"who": name, "failures": number, "failed_at": now, "locked_until": ends[name]})
    if rows:
        new = insert_for(connection, tables.login_failures)
        values = {name: new.excluded[name] for name in ("failures", "failed_at", "locked_until")}
        connection.execute(new.on_conflict_do_update(index_elements=[who], set_=values), rows)
    return ends
