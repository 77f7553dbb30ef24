"""One person's texts stay in order, and never two of them are under way at once.

Within one priority a message waits for every earlier one to the same recipient from the same sender that is due,
`sending`, or in a backoff of under ten minutes. Whatever its priority, it waits for a POST to them that is in flight.
Messages that are unknown, held, paused, or wait for an hour of the day hold up nobody.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, literal_column, or_, select

from messaging.batch_statuses import MAY_SEND
from messaging.storage import tables
from messaging.storage.due_times import due_now, is_due

LONGEST_BACKOFF_WAITED_FOR = timedelta(minutes=10)

_EARLIER = tables.messages.alias("earlier")
_UNDER_WAY = tables.messages.alias("under_way")
_STEADY_SOON = bindparam("steady_soon", type_=tables.messages.c.due_at.type)

# The words of the partial indexes: SQLite takes an index only for its own words.
_IS_QUEUED = _EARLIER.c.status == literal_column("'queued'")
_IS_UNSETTLED = _UNDER_WAY.c.status.in_((literal_column("'unknown'"), literal_column("'sending'")))

# Subqueries for one value here too, which are looked up by their key.
_BATCH_STATUS = select(tables.batches.c.status).where(tables.batches.c.id == _EARLIER.c.batch_id)
_MAY_GO = or_(_EARLIER.c.batch_id.is_(None), _BATCH_STATUS.scalar_subquery().in_(MAY_SEND))
# A backoff is a duration; what is due by the wall clock waits for an hour.
_IN_BACKOFF = and_(_EARLIER.c.tries > 0, _EARLIER.c.due_by_wall.is_(False), _EARLIER.c.due_at <= _STEADY_SOON)
_ATTEMPT_STATE = select(tables.attempts.c.state).where(tables.attempts.c.id == _UNDER_WAY.c.attempt_id)
_IN_FLIGHT = _ATTEMPT_STATE.scalar_subquery() == "posting"


def moments(connection: Connection, now: datetime) -> dict[str, datetime]:
    """The parameters of `is_next`, and of `due_times.IS_DUE`. `now`: the wall clock."""
    asked = due_now(connection, now)
    return asked | {"steady_soon": asked["steady_now"] + LONGEST_BACKOFF_WAITED_FOR}


def is_next() -> ColumnElement[bool]:
    """Of a row of `messages`: nothing of the same person and sender is before it or in flight."""
    return and_(_first_found(_earlier_queued()).is_(None), _first_found(_under_way()).is_(None))


def _first_found(conditions: tuple[ColumnElement[bool], ...]) -> Any:
    """A subquery for one value. Of NOT EXISTS PostgreSQL would make a join, and read a million rows for it."""
    return (
        select(literal_column("1"))
        .where(*conditions)
        .limit(literal_column("1"))
        .correlate(tables.messages)
        .scalar_subquery()
    )


def _earlier_queued() -> tuple[ColumnElement[bool], ...]:
    return (
        _IS_QUEUED,
        _EARLIER.c.recipient == tables.messages.c.recipient,
        _EARLIER.c.priority == tables.messages.c.priority,
        _EARLIER.c.id < tables.messages.c.id,
        _EARLIER.c.sender_id.is_not_distinct_from(tables.messages.c.sender_id),
        or_(and_(*is_due(_EARLIER)), _IN_BACKOFF),
        _MAY_GO,
    )


def _under_way() -> tuple[ColumnElement[bool], ...]:
    is_earlier = and_(
        _UNDER_WAY.c.priority == tables.messages.c.priority, _UNDER_WAY.c.id < tables.messages.c.id
    )
    return (
        _IS_UNSETTLED,
        # In words that hide it from PostgreSQL, which would walk over the index of all that is sending: its statistics
        # mostly say that nothing is.
        func.coalesce(_UNDER_WAY.c.status, "") == "sending",
        _UNDER_WAY.c.recipient == tables.messages.c.recipient,
        _UNDER_WAY.c.id != tables.messages.c.id,
        _UNDER_WAY.c.sender_id.is_not_distinct_from(tables.messages.c.sender_id),
        or_(is_earlier, _IN_FLIGHT),
    )
