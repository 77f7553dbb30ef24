"""From what a callback says to what it changes, for a whole group: together where possible, else one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from messaging import journal, opt_outs
from messaging.database import Database
from messaging.inbound import FiledText, InboundText, receive_texts
from messaging.reports import apply_reports
from messaging.standings import FiledReport, Report
from utils.errors import ServiceError
from utils.settings import Settings

LONGEST_DETAIL = 300
# Whatever one body may set off: a value the store refuses, or an error of ours. Its neighbours go on.
CANNOT_APPLY = (
    SQLAlchemyError,
    ServiceError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class OptOut(NamedTuple):
    """AT's word that a person opted out; `sender_id` None: of everything."""

    phone: str
    sender_id: str | None


class Subscription(NamedTuple):
    """Journaled and listed; nothing else follows from it."""

    phone: str


Content = Report | InboundText | OptOut | Subscription


class Filed(NamedTuple):
    """A journaled callback that is to take effect."""

    callback_id: int
    received_at: datetime
    content: Content


def apply_together(
    settings: Settings, database: Database, connection: Connection, filed: Sequence[Filed]
) -> list[int]:
    """Raises what any of them raises; the caller's transaction is then lost. Returns no failures."""
    reports = [FiledReport(*one[:2], one.content) for one in filed if isinstance(one.content, Report)]
    if reports:
        apply_reports(database, connection, reports, adopt=settings.adopt_by_number)
    texts = [FiledText(*one[:2], one.content) for one in filed if isinstance(one.content, InboundText)]
    if texts:
        receive_texts(settings, database, connection, texts)
    left = [(one.callback_id, one.content) for one in filed if isinstance(one.content, OptOut)]
    if left:
        _opt_out(database, connection, left)
    return []


def apply_each(
    settings: Settings, database: Database, connection: Connection, filed: Iterable[Filed]
) -> list[int]:
    """Each in a savepoint of its own; the ids of those that could not be applied, marked so in the journal."""
    return [
        one.callback_id
        for one in filed
        if attempt(
            connection, one.callback_id, partial(apply_together, settings, database, connection, [one])
        )
        is None
    ]


def attempt(connection: Connection, callback_id: int, apply: Callable[[], Result]) -> Result | None:
    """What `apply` returns; None where it raised: then it has changed nothing, and the journal says why."""
    try:
        with connection.begin_nested():
            return apply()
    except CANNOT_APPLY as error:
        logger.exception("a callback could not be applied", extra={"callback_id": callback_id})
        journal.set_outcome(connection, [callback_id], journal.UNAPPLIED, _explain(error))
        return None


def _opt_out(database: Database, connection: Connection, left: Sequence[tuple[int, OptOut]]) -> None:
    opt_outs.lock_phones(connection, [one.phone for _, one in left])
    for callback_id, one in left:
        scope = "all" if one.sender_id is None else "sender"
        opt_outs.record_stop(
            database, connection, one.phone, scope, one.sender_id, opt_outs.CALLBACK, callback_id
        )


def _explain(error: Exception) -> str:
    """For the journal, which holds the body anyway; the log gets no values."""
    cause = getattr(error, "orig", None) or error
    return f"{type(error).__name__}: {cause}".replace("\0", "\ufffd")[:LONGEST_DETAIL]
