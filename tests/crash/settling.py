"""After the load: every process runs, no fault strikes, and time does the rest. Nothing is moved by hand."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Select, func, select

from messaging import statuses
from messaging.callbacks import journal
from messaging.reports import adoption
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.crash.numbers import FAULTS
from tests.support.stack import Stack

LOOK_SECONDS = 0.5
# Between two restarts that make a worker sweep at once rather than within the minute.
RESTART_SECONDS = 5.0
# What the books say of a parked report that nothing but the next sweep keeps from its message.
NOT_YET = "not adopted yet"


def end_faults(stack: Stack) -> None:
    off: dict[str, Any] = {name: False for name in FAULTS if name != "reports"}
    stack.control("faults", off | {"reports": False})


def what_is_open(stack: Stack, database: Database) -> dict[str, int]:
    """Empty when all is at rest: no message on its way, no attempt open, no callback owed, no report to be applied,
    nothing to adopt."""
    owed = stack.session.get(f"{stack.simulator_url}/_simulator/callbacks", params={"limit": 1}, timeout=30)
    with database.read() as connection:
        waiting = connection.execute(
            select(tables.messages.c.status, func.count())
            .where(tables.messages.c.status.in_((statuses.QUEUED, statuses.SENDING)))
            .group_by(tables.messages.c.status)
        )
        found = {row[0]: row[1] for row in waiting}
        found["attempts"] = connection.execute(_open_attempts()).scalar_one()
        found["adoptions"] = _adoptable(connection)
        found["reports"] = connection.execute(_received_reports()).scalar_one()
    found["callbacks"] = owed.json()["owed"]
    return {name: number for name, number in found.items() if number}


def wait_for_rest(stack: Stack, database: Database, seconds: float) -> dict[str, int]:
    """Until all is at rest; what is still open after `seconds`.

    A lease that ended is swept each minute, and when a worker starts; so is a report that came before its
    message became unknown. So the worker is restarted, as an operator may do at any time, instead of waiting
    for the minute.
    """
    deadline = time.monotonic() + seconds
    restarted_at = time.monotonic()
    while open_now := what_is_open(stack, database):
        if time.monotonic() > deadline:
            return open_now
        if time.monotonic() - restarted_at > RESTART_SECONDS and _waits_for_a_sweep(database):
            stack.stop("worker")
            stack.start("worker")
            restarted_at = time.monotonic()
        time.sleep(LOOK_SECONDS)
    return {}


def _open_attempts() -> Select[int]:
    return select(func.count()).where(tables.attempts.c.state.in_(("claimed", "posting")))


def _received_reports() -> Select[int]:
    return select(func.count()).where(tables.callbacks.c.outcome == journal.RECEIVED)


def _adoptable(connection: Connection) -> int:
    return sum(report.why == NOT_YET for report in adoption.ambiguous_reports(connection))


def _waits_for_a_sweep(database: Database) -> bool:
    with database.read() as connection:
        expired = _open_attempts().where(tables.attempts.c.lease_until < wall_clock(connection))
        return connection.execute(expired).scalar_one() > 0 or _adoptable(connection) > 0
