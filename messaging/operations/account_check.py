"""Which AT account and host a database belongs to. The simulator is one of them."""

from __future__ import annotations

from urllib.parse import urlsplit

from sqlalchemy import Connection, select

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.identity import require_identity
from utils.errors import ServiceError
from utils.settings import Settings

SIMULATOR = ("simulator", "offline")


class WrongDatabase(ServiceError):
    code = "wrong_books"


def claim_identity(database: Database, settings: Settings) -> None:
    """Records the account and host at the first start; refuses a start with another.

    A lost variable would otherwise "deliver" real texts to a simulator, or send a test's queue to real people.
    Raises WrongDatabase.
    """
    account, host = _identity(settings)
    with database.write() as connection:
        database.clocks.look(connection)
        now = wall_clock(connection)
        require_identity(connection, now)
        row = {"id": 1, "account": account, "host": host, "recorded_at": now}
        insert_or_ignore(connection, tables.service_identity, row)
        recorded = _recorded(connection)
    if recorded != (account, host):
        raise WrongDatabase(_refusal(recorded, (account, host)))


def _identity(settings: Settings) -> tuple[str, str]:
    if settings.is_offline:
        return SIMULATOR
    # Without the port: a stand-in on loopback may move, an account's host does not.
    return settings.provider_username, urlsplit(settings.provider_host).hostname or ""


def _recorded(connection: Connection) -> tuple[str, str]:
    row = connection.execute(select(tables.service_identity.c.account, tables.service_identity.c.host)).one()
    return row.account, row.host


def _refusal(recorded: tuple[str, str], wanted: tuple[str, str]) -> str:
    return (
        f"This database serves {_name(recorded)}, but the settings name {_name(wanted)}."
        " Set DATABASE_URL to another database (for example sqlite:///instance/live.db),"
        " or set AT_USERNAME and AT_BASE_URL back."
    )


def _name(identity: tuple[str, str]) -> str:
    return "the offline simulator" if identity == SIMULATOR else f"the account {identity[0]} at {identity[1]}"
