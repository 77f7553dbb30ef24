"""How often a password may be guessed: counted by name and by address in the database, so for all processes at once."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select

from messaging.storage import tables
from messaging.storage.bulk import insert_for
from messaging.storage.clocks import steady
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
    sentence = "Too many tries with a wrong password"


def require_free(database: Database, name: str | None, address: str | None) -> None:
    """Raises TooManyTries, also for the right password: else the answer would tell which one that is."""
    with database.read() as connection:
        now = steady(connection, database.now(connection))
        until = tables.login_failures.c.locked_until
        statement = select(until).where(tables.login_failures.c.who.in_(_counted(name, address)), until > now)
        locked = max(connection.execute(statement).scalars(), default=None)
    if locked is not None:
        seconds = max(1, round((locked - now).total_seconds()))
        raise TooManyTries(f"Too many tries with a wrong password: wait {seconds} seconds")


def count_failure(database: Database, name: str | None, address: str | None) -> None:
    with database.write() as connection:
        now = steady(connection, database.now(connection))
        for who in _counted(name, address):
            _count(connection, who, now)


def forget(database: Database, name: str) -> None:
    """After the right password. Those of an address stay: one known password must not pay for guesses at others."""
    with database.write() as connection:
        connection.execute(delete(tables.login_failures).where(tables.login_failures.c.who == f"name:{name}"))


def forget_old(connection: Connection, now: datetime) -> None:
    """`now`: in steady time."""
    is_old = tables.login_failures.c.failed_at < now - FORGOTTEN_AFTER
    connection.execute(delete(tables.login_failures).where(is_old))


def _counted(name: str | None, address: str | None) -> list[str]:
    """A name that nobody has is not counted: a stranger would fill the table with them."""
    return [f"name:{name}"] * (name is not None) + [f"address:{address}"[:80]] * (address is not None)


def _count(connection: Connection, who: str, now: datetime) -> None:
    ours = tables.login_failures.c.who == who
    row = connection.execute(select(tables.login_failures).where(ours).with_for_update()).one_or_none()
    is_fresh = row is not None and row.failed_at > now - FORGOTTEN_AFTER
    failures = row.failures + 1 if row is not None and is_fresh else 1
    over = failures - FREE_TRIES
    values = {
        "failures": failures,
        "failed_at": now,
        "locked_until": now + backoff(over, FIRST_WAIT, LONGEST_WAIT) if over >= 0 else now,
    }
    statement = insert_for(connection, tables.login_failures).values(who=who, **values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=[tables.login_failures.c.who], set_=values)
    )
