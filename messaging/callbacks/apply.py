"""From what a callback says to what it changes, for a whole group: together where possible, else one by one.

Reports are only journaled here, as `received`: the worker applies them (`received`). Of those that carry a block,
and of all else, the effect is part of the commit that journals them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from messaging.callbacks import journal
from messaging.consent import ledger
from messaging.conversations.receive import FiledText, InboundText, receive_texts
from messaging.reports.apply import apply_reports
from messaging.reports.message_state import DeliveryReport, FiledReport, carries_block
from messaging.storage.database import Database, savepoint
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
# PostgreSQL's classes: connection, rollback (deadlocks), resources, locks, operator, system.
TROUBLE_OF_STORE = frozenset({"08", "40", "53", "55", "57", "58"})

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class OptOut(NamedTuple):
    """AT's word that a person opted out; `sender_id` None: of everything.

    `phones`: every number that AT's may be read as; the very string where it is none.
    """

    phones: tuple[str, ...]
    sender_id: str | None


class Subscription(NamedTuple):
    """Journaled and listed; nothing else follows from it."""

    phone: str


Content = DeliveryReport | InboundText | OptOut | Subscription


class Callback(NamedTuple):
    """A body with what it says; `content` is None where it cannot be used."""

    arrival: journal.Arrival
    content: Content | None


class Filed(NamedTuple):
    """A journaled callback that is to take effect."""

    callback_id: int
    received_at: datetime
    content: Content


def apply_group(
    settings: Settings,
    connection: Connection,
    callbacks: Sequence[Callback],
    *,
    with_care: bool = False,
) -> list[None]:
    """Journals all, then applies what is new and not the worker's. `with_care`: a bad one harms nobody else.

    Without it one bad callback raises and the transaction is lost: to be done again, with care. Trouble of
    the store itself always raises: then nothing is stored, and AT comes again.
    """
    entries = journal.write(connection, [one.arrival for one in callbacks])
    distinct = {one.arrival.digest: one for one in callbacks}
    due = [
        (entries[digest], one.content) for digest, one in distinct.items() if _is_due(one, entries[digest])
    ]
    filed = [
        Filed(entry.id, entry.seen_at, content)
        for entry, content in due
        if content is not None and not is_for_worker(content)
    ]
    apply = apply_each if with_care else apply_together
    failed = apply(settings, connection, filed)
    again = [(entry.id, content) for entry, content in due if entry.outcome == journal.UNAPPLIED]
    received = [entry_id for entry_id, content in again if is_for_worker(content)]
    journal.set_outcome(connection, received, journal.RECEIVED, None)
    retried = [entry_id for entry_id, _ in again if entry_id not in {*failed, *received}]
    journal.set_outcome(connection, retried, journal.APPLIED, None)
    return [None] * len(callbacks)


def is_for_worker(content: Content | None) -> bool:
    """A report that blocks nobody. What blocks somebody counts at once: the next text may be due this second."""
    return isinstance(content, DeliveryReport) and not carries_block(content)


def _is_due(callback: Callback, entry: journal.Entry) -> bool:
    """New, or failed the last time; an opt-out always, for a person may go, come back, and go again."""
    return (
        entry.is_new
        or entry.outcome == journal.UNAPPLIED
        or (isinstance(callback.content, OptOut) and entry.outcome == journal.APPLIED)
    )


def apply_together(settings: Settings, connection: Connection, filed: Sequence[Filed]) -> list[int]:
    """Raises what any of them raises; the caller's transaction is then lost. Returns no failures."""
    reports = [FiledReport(*one[:2], one.content) for one in filed if isinstance(one.content, DeliveryReport)]
    if reports:
        apply_reports(connection, reports, adopt=settings.adopt_by_number)
    left = [(one.callback_id, one.content) for one in filed if isinstance(one.content, OptOut)]
    if left:
        _opt_out(connection, left)
    texts = [FiledText(*one[:2], one.content) for one in filed if isinstance(one.content, InboundText)]
    if texts:
        _note(connection, receive_texts(settings, connection, texts))
    return []


def _note(connection: Connection, notes: Mapping[int, str]) -> None:
    """Writes to the journal why some texts, by callback id, were not taken as new ones."""
    for why in sorted(set(notes.values())):
        ids = sorted(callback_id for callback_id, said in notes.items() if said == why)
        journal.set_outcome(connection, ids, journal.APPLIED, why)


def apply_each(settings: Settings, connection: Connection, filed: Iterable[Filed]) -> list[int]:
    """Each in a savepoint of its own; the ids of those that could not be applied, marked so in the journal."""
    return [
        one.callback_id
        for one in filed
        if attempt(connection, one.callback_id, partial(apply_together, settings, connection, [one])) is None
    ]


def apply_in_halves(
    settings: Settings, database: Database, connection: Connection, filed: Sequence[Filed]
) -> list[int]:
    """The same in few savepoints: of all, and where that fails of each half. One bad among 500 costs 18 more.

    For reports only: texts of one group are not kept in the order they came.
    """
    if len(filed) < 2:
        return apply_each(settings, connection, filed)
    try:
        with savepoint(connection):
            return apply_together(settings, connection, filed)
    except CANNOT_APPLY as error:
        if _is_trouble_of_store(error):
            raise
    half = len(filed) // 2
    failed = apply_in_halves(settings, database, connection, filed[:half])
    return failed + apply_in_halves(settings, database, connection, filed[half:])


def attempt(connection: Connection, callback_id: int, apply: Callable[[], Result]) -> Result | None:
    """What `apply` returns; None where it raised: then it has changed nothing, and the journal says why."""
    try:
        with savepoint(connection):
            return apply()
    except CANNOT_APPLY as error:
        if _is_trouble_of_store(error):
            raise
        # Without the traceback: the store's errors quote the values, and a log holds no number and no text.
        note = {"callback_id": callback_id, "error": type(error).__name__}
        logger.error("a callback could not be applied", extra=note)  # noqa: TRY400
        journal.set_outcome(connection, [callback_id], journal.UNAPPLIED, explain(error))
        return None


def _opt_out(connection: Connection, left: Sequence[tuple[int, OptOut]]) -> None:
    ledger.lock_phones(connection, [phone for _, one in left for phone in one.phones])
    for callback_id, one in left:
        scope = "all" if one.sender_id is None else "sender"
        for phone in one.phones:
            ledger.record_stop(connection, phone, scope, one.sender_id, ledger.CALLBACK, callback_id)


def _is_trouble_of_store(error: Exception) -> bool:
    """No fault of the body: a deadlock, a full disk, a server that goes down."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, OperationalError)
    return state[:2] in TROUBLE_OF_STORE


def explain(error: Exception) -> str:
    """For the journal, which holds the body anyway; the log gets no values."""
    cause = getattr(error, "orig", None) or error
    return f"{type(error).__name__}: {cause}".replace("\0", "\ufffd")[:LONGEST_DETAIL]
