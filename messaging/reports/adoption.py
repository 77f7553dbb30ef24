"""A report of an id that nobody has, taken by the one message whose answer was lost and that can own it.

Only a message that is `unknown` adopts: the report came after its attempt began and within 72 hours, no
message to that number is in flight, exactly one could own the report, and it is the only id that one could
own. Otherwise everything stays as it is, and is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, exists, or_, select, text, update

from messaging import statuses
from messaging.messages.report_effects import ADOPTED
from messaging.reports import find
from messaging.reports.message_state import FiledReport, is_known_word
from messaging.reports.parked import IS_PARKED
from messaging.reports.settle import settle
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.database import Database
from messaging.storage.rollback import is_recovering

ADOPTION_WINDOW = timedelta(hours=72)
MOST_AT_ONCE = 500


_PARKED_BY_RECIPIENT = (
    select(tables.delivery_reports)
    .where(one_of(tables.delivery_reports.c.recipient, "recipients"), IS_PARKED)
    .order_by(tables.delivery_reports.c.id)
)
# As the partial index says it: SQLite uses one only for the same words.
_UNSETTLED = text("messages.status IN ('unknown', 'sending')")
_WITHOUT_ID = and_(
    tables.messages.c.status == statuses.UNKNOWN, tables.messages.c.provider_message_id.is_(None)
)
_NUMBERS_IN_DOUBT = (
    select(tables.messages.c.recipient)
    .where(
        _UNSETTLED,
        _WITHOUT_ID,
        exists().where(tables.delivery_reports.c.recipient == tables.messages.c.recipient, IS_PARKED),
    )
    .distinct()
    .order_by(tables.messages.c.recipient)
)
_IS_IN_DOUBT = select(tables.messages.c.recipient).where(
    one_of(tables.messages.c.recipient, "recipients"), _UNSETTLED, _WITHOUT_ID
)
# Whoever may own a stray report: unknown, in flight, sent a second time, or without an id though it was
# accepted, or unknown once and closed by hand.
_WAS_SENT = exists().where(
    tables.message_events.c.message_id == tables.messages.c.id,
    tables.message_events.c.status.in_((statuses.UNKNOWN, statuses.ACCEPTED)),
)
_CLAIMANTS = (
    select(
        tables.messages.c.id,
        tables.messages.c.recipient,
        tables.messages.c.status,
        tables.messages.c.provider_message_id,
        tables.messages.c.unknown_resends,
        tables.messages.c.created_at,
        tables.attempts.c.posting_at,
    )
    .outerjoin(tables.attempts, tables.attempts.c.id == tables.messages.c.attempt_id)
    .where(
        one_of(tables.messages.c.recipient, "recipients"),
        or_(
            tables.messages.c.status.in_((statuses.UNKNOWN, statuses.SENDING)),
            tables.messages.c.unknown_resends > 0,
            and_(tables.messages.c.provider_message_id.is_(None), _WAS_SENT),
        ),
    )
)
_GIVE_ID = (
    update(tables.messages)
    .where(
        tables.messages.c.id == bindparam("message_id"),
        tables.messages.c.status == statuses.UNKNOWN,
        tables.messages.c.provider_message_id.is_(None),
    )
    .values(provider_message_id=bindparam("new_provider_id"))
)


class AmbiguousReport(NamedTuple):
    """A parked report that a message whose answer was lost might own. `why` in words for a person."""

    report_id: int
    provider_message_id: str
    recipient: str
    word: str
    received_at: datetime
    message_ids: list[int]
    why: str


class _Stray(NamedTuple):
    """One id of AT's that nobody has: its parked reports, who may own it, and what forbids adoption."""

    provider_id: str
    reports: list[Any]
    owners: list[Any]
    obstacle: str | None


def adopt_by_number(database: Database, now: datetime | None = None) -> int:
    """Lets messages whose answer was lost take the one report that can only be theirs; how many did.

    `now`: only reports that came before it (default: all).
    """
    with database.write() as connection:
        # After a report that is being parked just now: each side would else look before the other commits.
        find.take_turn(connection)
        numbers = list(connection.execute(_NUMBERS_IN_DOUBT).scalars())
    adopted = 0
    for start in range(0, len(numbers), MOST_AT_ONCE):
        with database.write() as connection:
            find.take_turn(connection)
            adopted += adopt(connection, numbers[start : start + MOST_AT_ONCE], now)
    return adopted


def adopt(connection: Connection, recipients: Iterable[str], now: datetime | None = None) -> int:
    """The same for some numbers, in the caller's transaction. One look, by index, where nothing is in doubt."""
    wanted = {"recipients": list(recipients)}
    in_doubt = list(connection.execute(_IS_IN_DOUBT, wanted).scalars())
    # During a recovery a report may be that of a text which is not yet known to have left.
    if not in_doubt or is_recovering(connection):
        return 0
    strays = [
        stray
        for stray in _strays(connection, in_doubt)
        if stray.obstacle is None and (now is None or stray.reports[0].received_at <= now)
    ]
    return sum(_adopt_one(connection, stray) for stray in strays)


def ambiguous_reports(connection: Connection) -> list[AmbiguousReport]:
    """What nobody may decide but a person: every report that could be adopted, and is not."""
    numbers = list(connection.execute(_NUMBERS_IN_DOUBT.limit(MOST_AT_ONCE)).scalars())
    return [
        AmbiguousReport(
            report.id,
            stray.provider_id,
            report.recipient,
            report.word,
            report.received_at,
            [owner.id for owner in stray.owners],
            stray.obstacle or "not adopted yet",
        )
        for stray in _strays(connection, numbers)
        if stray.owners
        for report in stray.reports
    ]


def _strays(connection: Connection, recipients: Sequence[str]) -> list[_Stray]:
    """Every parked id to these numbers with its verdict. All claimants are read at one moment: one that went
    from `sending` to `unknown` between two looks would be in neither."""
    parked = connection.execute(_PARKED_BY_RECIPIENT, {"recipients": recipients}).all()
    claimants: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(_CLAIMANTS, {"recipients": recipients}):
        claimants[row.recipient].append(row)
    by_id: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in parked:
        by_id[row.recipient, row.provider_message_id].append(row)
    owners = {key: [one for one in claimants[key[0]] if _may_own(one, by_id[key])] for key in by_id}
    claims: dict[int, int] = defaultdict(int)
    for owner in (one for candidates in owners.values() for one in candidates):
        claims[owner.id] += 1
    return [
        _Stray(key[1], reports, owners[key], _obstacle(reports, owners[key], claimants[key[0]], claims))
        for key, reports in by_id.items()
    ]


def _may_own(claimant: Any, reports: Sequence[Any]) -> bool:
    first_report_at = reports[0].received_at
    if claimant.created_at > first_report_at:
        return False
    if claimant.posting_at is not None and claimant.posting_at < first_report_at - ADOPTION_WINDOW:
        return False
    # Sent once only: its one attempt says the rest. Sent twice: the lost first text may be the reported one.
    if claimant.unknown_resends:
        return True
    if claimant.provider_message_id is not None:
        return False
    return claimant.posting_at is None or claimant.posting_at <= first_report_at


def _obstacle(
    reports: Sequence[Any],
    owners: Sequence[Any],
    claimants: Sequence[Any],
    claims: Mapping[int, int],
) -> str | None:
    """Why nobody may adopt this id; None: exactly one message can, and this is the only id it can own."""
    if any(one.status == statuses.SENDING for one in claimants):
        return "a message to this number is in flight"
    if len(owners) != 1:
        return "several messages may own it" if owners else "no message may own it"
    owner = owners[0]
    if claims[owner.id] > 1:
        return "the message may own several ids"
    is_free = owner.status == statuses.UNKNOWN and owner.provider_message_id is None
    if not is_free or owner.posting_at is None:
        return "the message was sent again or is settled"
    if not any(is_known_word(report.word) for report in reports):
        return "its status word is not known"
    return None


def _adopt_one(connection: Connection, stray: _Stray) -> bool:
    owner = stray.owners[0]
    # Whoever holds one of these rows (a late answer, a join) knows more than we do: leave it to them.
    rows = connection.execute(
        _unheld(tables.delivery_reports, [row.id for row in stray.reports], IS_PARKED)
    ).all()
    free = connection.execute(_unheld(tables.messages, [owner.id], _WITHOUT_ID)).first()
    if len(rows) != len(stray.reports) or free is None:
        return False
    given = {"message_id": owner.id, "new_provider_id": stray.provider_id}
    connection.execute(_GIVE_ID, given)
    state = find.by_id(connection, [owner.id])[owner.id]
    pairs = [(state, FiledReport.from_row(row)) for row in stray.reports]
    settle(connection, pairs, "inferred", ADOPTED)
    return True


def _unheld(table: Any, ids: Sequence[int], condition: Any) -> Any:
    return select(table.c.id).where(table.c.id.in_(ids), condition).with_for_update(skip_locked=True)
