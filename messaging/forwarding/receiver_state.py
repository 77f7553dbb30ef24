"""How the receiver of forwarded events is doing: open, failing (one attempt per backoff step), or paused."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select, update

from messaging.storage import tables
from messaging.storage.bulk import insert_or_ignore
from messaging.storage.clocks import steady
from utils.backoff import backoff

FIRST_STEP = timedelta(seconds=2)
LONGEST_STEP = timedelta(minutes=5)
# Nothing was accepted for this long: then somebody has to look, and the attempts stop.
PAUSE_AFTER = timedelta(hours=24)

_ROW_ID = 1
_STATE = select(tables.forward_state).where(tables.forward_state.c.id == _ROW_ID)

logger = logging.getLogger(__name__)


def receiver_of(url: str) -> str:
    """Of the URL only a digest is kept, for it may hold a password."""
    return hashlib.sha256(url.encode()).hexdigest()


def look(connection: Connection) -> Row[Any] | None:
    """None before the first event was ever due."""
    return connection.execute(_STATE).one_or_none()


def lock(connection: Connection, receiver: str, now: datetime) -> Row[Any]:
    """The row, held until the commit: workers claim one after the other. Another URL begins anew, unpaused."""
    row = connection.execute(_STATE.with_for_update()).one_or_none()
    if row is not None and row.receiver == receiver:
        return row
    fresh = {"receiver": receiver, "step": 0, "next_post_at": steady(connection, now)}
    if row is None and insert_or_ignore(connection, tables.forward_state, {"id": _ROW_ID, **fresh}):
        return connection.execute(_STATE.with_for_update()).one()
    _write(connection, **fresh, **_NO_TROUBLE, succeeded_at=None)
    return connection.execute(_STATE.with_for_update()).one()


def waits(row: Row[Any], steady_now: datetime) -> bool:
    # Never longer than the longest step: PostgreSQL's clock that was set back must not stop the thread for hours.
    return row.paused_at is not None or steady_now < row.next_post_at <= steady_now + LONGEST_STEP


def take_turn(connection: Connection, row: Row[Any], now: datetime) -> None:
    next_post_at = steady(connection, now) + backoff(row.step, FIRST_STEP, LONGEST_STEP)
    _write(connection, next_post_at=next_post_at)


def succeeded(connection: Connection, now: datetime) -> None:
    """Also lifts a pause: an attempt that was under way when it began has shown that the receiver is back."""
    _write(connection, step=0, next_post_at=steady(connection, now), succeeded_at=now, **_NO_TROUBLE)


def failed(connection: Connection, row: Row[Any], reason: str, now: datetime, *, is_down: bool) -> None:
    """Nothing of a round was accepted. A receiver that is up and refuses what it got may take what comes next:
    one attempt per step would keep that waiting for hours behind what it refuses."""
    step = row.step + 1 if is_down else 0
    since = row.failing_since or steady(connection, now)
    _write(
        connection,
        step=step,
        next_post_at=steady(connection, now) + backoff(step, FIRST_STEP, LONGEST_STEP),
        failing_since=since,
        reason=reason,
    )
    if step > 1:
        logger.warning("the receiver of forwarded events does not accept", extra={"rounds": step})


def pause(connection: Connection, reason: str, now: datetime) -> None:
    _write(connection, paused_at=now, reason=reason)
    logger.error("forwarding is paused", extra={"reason": reason})


def resume(connection: Connection, now: datetime) -> bool:
    """Whether it was paused. The next attempt goes at once."""
    row = connection.execute(_STATE.with_for_update()).one_or_none()
    if row is None:
        return False
    _write(connection, step=0, next_post_at=steady(connection, now), **_NO_TROUBLE)
    return row.paused_at is not None


_NO_TROUBLE: dict[str, None] = {"failing_since": None, "paused_at": None, "reason": None}


def _write(connection: Connection, **values: object) -> None:
    connection.execute(
        update(tables.forward_state).where(tables.forward_state.c.id == _ROW_ID).values(**values)
    )
