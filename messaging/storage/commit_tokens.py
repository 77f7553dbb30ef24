"""A commit whose answer was lost is settled: the database itself is asked whether it was done.

The transaction leaves a random token under a unique index. On a fresh connection the token is inserted again: a
conflict means that the transaction was committed; success means that it was not, and cannot be any more. While
the transaction is still being committed the insert waits for it. The id of the transaction and `pg_xact_status`
would cost less, but a server that crashes may give an id again, and then say "committed" of somebody else's.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from utils.errors import AcceptanceUnknown

# Beside the keys of callers, with which it is forgotten a day later.
ROUTE = "commit"
TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 0.2
LOCK_TIMEOUT = text("SELECT set_config('lock_timeout', :milliseconds, true)")


def leave_token(connection: Connection) -> str:
    token = secrets.token_hex(16)
    connection.execute(insert(tables.idempotency_keys).values(**_row(token)))
    return token


def was_committed(engine: Engine, token: str) -> bool:
    """Of the transaction that left `token`. Raises AcceptanceUnknown where the database does not tell in time."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            return _is_there(engine, token, deadline)
        except (DBAPIError, PoolTimeout) as error:
            if time.monotonic() > deadline:
                raise AcceptanceUnknown from error
            time.sleep(RETRY_SECONDS)


def _is_there(engine: Engine, token: str, deadline: float) -> bool:
    """Leaves nothing behind: what could be inserted beside it has been rolled back already."""
    milliseconds = max(1, int(1000 * (deadline - time.monotonic())))
    with engine.connect() as connection:
        connection.execute(LOCK_TIMEOUT, {"milliseconds": str(milliseconds)})
        is_free = insert_or_ignore(connection, tables.idempotency_keys, _row(token))
        connection.rollback()
        return not is_free


def _row(token: str) -> dict[str, Any]:
    # By the clock that the sweep forgets keys by: this machine's may be days behind.
    return {"route": ROUTE, "key": token, "fingerprint": b"", "created_at": func.clock_timestamp()}
