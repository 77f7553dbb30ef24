"""What may be spent in a day, by all, with one key and from one sender id: counted at the last check of every POST.

The last checks of all workers come one after the other as it is, for the rate limit's row is theirs until the commit
(messaging.sending.start_post). Reading the sums there, comparing and adding is exact, and nobody waits for one row
more. Sums that a claim holds back, as `max_cost` does, were rejected: all claims would wait for the account's row.

Costs are known by AT's answer only, so the last known price counts until then. What the answer changes is appended
to `spend_changes`, so that no record of an answer waits for another; the next last check adds it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from time import monotonic
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, Row, bindparam, delete, func, insert, select, union_all, update

from messaging import statuses
from messaging.costs.prices import LastPrices, Price
from messaging.storage import tables
from messaging.storage.bulk import insert_for, one_of
from utils.money import Money
from utils.provider_answers import RecipientAnswer
from utils.segments import measure
from utils.sender_ids import sender_key
from utils.settings import Settings

ACCOUNT = "account"
KEY = "key:"
SENDER = "sender:"
# Days are kept so long for who asks what was spent.
KEPT = timedelta(days=40)

_KEY_LIMITS = select(
    tables.api_keys.c.name, tables.api_keys.c.daily_limit_micros, tables.api_keys.c.daily_limit_currency
).where(tables.api_keys.c.daily_limit_micros.is_not(None))
_BATCHES = select(tables.batches.c.id, tables.batches.c.created_by, tables.batches.c.passes_limits).where(
    one_of(tables.batches.c.id, "ids")
)
# An answer is recorded within this time of its first write.
FOLD_ALL_SECONDS = 30.0
FOLDED_AT_ONCE = 1000
# Scope and currency.
Sums = Counter[tuple[str, str]]


class Limit(NamedTuple):
    """`scope`: whose it is, `account`, `key:NAME` or `sender:NAME`."""

    scope: str
    micros: int
    currency: str

    def __str__(self) -> str:
        whose = "" if self.scope == ACCOUNT else f" for {self.scope.replace(':', ' ', 1)}"
        return f"{self.currency} {self.micros / 1_000_000:,.2f} a day{whose}"


class Charge(NamedTuple):
    """What one text counts as. Without a `currency` no price is known, and it counts when AT has answered."""

    micros: int
    currency: str | None
    limits: tuple[Limit, ...]
    batch_id: int | None
    # A person let it go past the limits: it counts all the same.
    passes: bool


class Charges(NamedTuple):
    """Of one POST, by recipient: those whose spending somebody has limited."""

    time_zone: str
    by_recipient: Mapping[str, Charge]

    @property
    def limits(self) -> set[Limit]:
        return {limit for one in self.by_recipient.values() for limit in one.limits}


class ToSend(Protocol):
    """A due message, or one that a trigger has just written."""

    @property
    def id(self) -> int: ...
    @property
    def recipient(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def sender_id(self) -> str | None: ...
    @property
    def batch_id(self) -> int | None: ...
    @property
    def estimated_parts(self) -> int | None: ...
    @property
    def created_by(self) -> str | None: ...
    @property
    def passes_limits(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class DailyLimits:
    """Those of the settings; the keys' are in the database."""

    account: Limit | None = None
    senders: Mapping[str, Limit] = field(default_factory=dict)
    time_zone: str = "UTC"

    @classmethod
    def of(cls, settings: Settings) -> DailyLimits:
        account = None if settings.daily_limit is None else _limit(ACCOUNT, settings.daily_limit)
        senders = {sender_key(name): one for name, one in settings.sender_daily_limits.items()}
        limits = {name: _limit(SENDER + name, one) for name, one in senders.items()}
        return cls(account, limits, settings.time_zone)

    def charges(self, connection: Connection, rows: Sequence[ToSend]) -> dict[int, Charge]:
        """By message. Where nothing is limited it costs a look at the table of keys."""
        of_keys = key_limits(connection)
        if not rows or not (of_keys or self.account or self.senders):
            return {}
        ids = sorted({row.batch_id for row in rows if row.batch_id is not None})
        batches: Mapping[int | None, Any] = {
            row.id: row for row in (connection.execute(_BATCHES, {"ids": ids}) if ids else ())
        }
        prices = LastPrices(connection)
        found = {}
        for row in rows:
            asked = batches.get(row.batch_id, row)
            limits = self._limits(of_keys.get(asked.created_by or ""), row.sender_id)
            if limits:
                passes = row.passes_limits or asked.passes_limits
                found[row.id] = _charge(prices, row, limits, passes)
        return found

    def _limits(self, of_key: Limit | None, sender_id: str | None) -> tuple[Limit, ...]:
        of_sender = self.senders.get(sender_key(sender_id)) if self.senders else None
        return tuple(one for one in (self.account, of_key, of_sender) if one is not None)


NO_LIMITS = DailyLimits()


def key_limits(connection: Connection) -> dict[str, Limit]:
    return {
        KEY + row.name: Limit(KEY + row.name, row.daily_limit_micros, row.daily_limit_currency)
        for row in connection.execute(_KEY_LIMITS)
    }


def all_limits(connection: Connection, settings: Settings) -> list[Limit]:
    daily = DailyLimits.of(settings)
    of_all = [] if daily.account is None else [daily.account]
    return [*of_all, *daily.senders.values(), *key_limits(connection).values()]


def _limit(scope: str, money: Money) -> Limit:
    return Limit(scope, money.micros, money.currency or "")


def _charge(prices: LastPrices, row: ToSend, limits: tuple[Limit, ...], passes: bool) -> Charge:
    unpriced = Charge(0, None, limits, row.batch_id, passes)
    price = prices.price_for(row.sender_id, row.recipient)
    return _with_price(unpriced, price, row.estimated_parts or measure(row.text).parts)


def _with_price(charge: Charge, price: Price | None, parts: int) -> Charge:
    if price is None:
        return charge
    return charge._replace(micros=price.micros_per_part * parts, currency=price.currency)


@dataclass(slots=True)
class _Here:
    """What this process knows of a database from one last check to the next."""

    # Scopes of which all that the counts by hour know is in the sums.
    compared: set[str] = field(default_factory=set)
    # Up to this id nothing was left to fold when it looked at all changes, and how long ago that was. SQLite, which
    # gives ids again, keeps nothing that was deleted: there each look is one at all.
    folded_to: int = 0
    looked_at: float = -math.inf
    # The last id that was folded, and the one when it looked at all.
    last_id: int = 0
    last_id_then: int = 0

    def note_look(self, found: Iterable[int]) -> None:
        """Only a look that found nothing there moves the mark: a fold may be rolled back."""
        if all(one > self.last_id_then for one in found):
            self.folded_to = self.last_id_then
            self.last_id_then, self.looked_at = max([self.last_id, *found]), monotonic()


_known_here: WeakKeyDictionary[Engine, _Here] = WeakKeyDictionary()


def _here(connection: Connection) -> _Here:
    return _known_here.setdefault(connection.engine, _Here())


class Day:
    """The sums of today, for a last check that holds the rate limit's row: nobody else adds to them meanwhile."""

    def __init__(
        self, connection: Connection, now: datetime, time_zone: str, limits: Iterable[Limit]
    ) -> None:
        self._connection = connection
        zone = ZoneInfo(time_zone)
        today = now.astimezone(zone).date()
        self.name = today.isoformat()
        fold(connection)
        scopes = {limit.scope: limit for limit in limits}
        self._spent = _spent(connection, self.name, scopes)
        known = {scope for scope, _ in self._spent} & _here(connection).compared
        new = [limit for scope, limit in sorted(scopes.items()) if scope not in known]
        if new:
            self._spent.update(_begin(connection, today, zone, new, self._spent))
        self._counted: list[dict[str, Any]] = []
        self._added: Sums = Counter()
        self._prices: LastPrices | None = None

    def with_prices(
        self, sender_id: str | None, text: str, charges: Mapping[str, Charge]
    ) -> Mapping[str, Charge]:
        """Those of a POST: of what had no price at its claim an answer may have told one since."""
        if all(one.currency is not None for one in charges.values()):
            return charges
        if self._prices is None:
            self._prices = LastPrices(self._connection)
        prices, parts = self._prices, measure(text).parts
        return {
            to: _with_price(one, prices.price_for(sender_id, to), parts) if one.currency is None else one
            for to, one in charges.items()
        }

    def admit(self, attempt_id: int, charges: Mapping[str, Charge], *, is_whole: bool) -> dict[str, Limit]:
        """Counts those that fit, and says which do not, by recipient, and what they would pass.

        `is_whole`: all or none.
        """
        counted: Sums = Counter()
        over: dict[str, Limit] = {}
        for recipient, charge in charges.items():
            passed = None if charge.passes else self._passed(charge, counted)
            if passed is not None:
                over[recipient] = passed
            elif charge.currency is not None:
                counted.update({(limit.scope, charge.currency): charge.micros for limit in charge.limits})
        if over and is_whole:
            return over
        self._spent.update(counted)
        self._added.update(counted)
        self._counted.append({"attempt_id": attempt_id, "new_counted": _as_json(self.name, counted)})
        return over

    def _passed(self, charge: Charge, counted: Sums) -> Limit | None:
        for limit in charge.limits:
            sum_of = limit.scope, limit.currency
            spent = self._spent[sum_of] + counted[sum_of]
            # What has no price, or one in another currency, goes until the limit is reached.
            adds = charge.micros if charge.currency == limit.currency else 0
            if spent + adds > limit.micros or spent >= limit.micros:
                return limit
        return None

    def write(self) -> None:
        _add(self._connection, {(self.name, *sum_of): micros for sum_of, micros in self._added.items()})
        if self._counted:
            self._connection.execute(_COUNTED, self._counted)


_COUNTED = (
    update(tables.attempts)
    .where(tables.attempts.c.id == bindparam("attempt_id"))
    .values(counted=bindparam("new_counted"))
)


def fold(connection: Connection) -> None:
    """Adds what answers have changed; in a last check only.

    What is folded stays in PostgreSQL's table and index as long as somebody's long transaction runs, and there may be
    a hundred thousand of them. So it looks behind those that were folded long ago. A change whose id is older and that
    was committed only now is found by the next look at all, `FOLD_ALL_SECONDS` later at the most.
    """
    here = _here(connection)
    is_of_all = connection.dialect.name == "sqlite" or monotonic() - here.looked_at > FOLD_ALL_SECONDS
    rows = _take_changes(connection, 0 if is_of_all else here.folded_to)
    sums: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        sums[row.day, row.scope, row.currency] += row.micros
    _add(connection, sums)
    if is_of_all:
        here.note_look([row.id for row in rows])
    here.last_id = max([here.last_id, *(row.id for row in rows)])


def _take_changes(connection: Connection, after_id: int) -> list[Row[Any]]:
    taken: list[Row[Any]] = []
    while True:
        rows = connection.execute(_CHANGES, {"after_id": after_id}).all()
        if rows:
            connection.execute(_FOLDED, {"ids": [row.id for row in rows]})
        taken += rows
        if len(rows) < FOLDED_AT_ONCE:
            return taken
        after_id = rows[-1].id


# Ordered and limited, so that PostgreSQL takes the index whatever it believes of the table.
_CHANGES = (
    select(tables.spend_changes)
    .where(tables.spend_changes.c.id > bindparam("after_id"))
    .order_by(tables.spend_changes.c.id)
    .limit(FOLDED_AT_ONCE)
)
_FOLDED = delete(tables.spend_changes).where(one_of(tables.spend_changes.c.id, "ids"))


def _add(connection: Connection, sums: Mapping[tuple[str, str, str], int]) -> None:
    rows = [
        {"day": day, "scope": scope, "currency": currency, "micros": micros}
        for (day, scope, currency), micros in sorted(sums.items())
    ]
    if rows:
        new = insert_for(connection, tables.daily_spend)
        added = {"micros": tables.daily_spend.c.micros + new.excluded.micros}
        columns = list(tables.daily_spend.primary_key.columns)
        connection.execute(new.on_conflict_do_update(index_elements=columns, set_=added), rows)


def _spent(connection: Connection, day: str, scopes: Iterable[str]) -> Sums:
    rows = connection.execute(_SPENT, {"day": day, "scopes": list(scopes)})
    return Counter({(row.scope, row.currency): row.micros for row in rows})


_SPENT = select(tables.daily_spend.c.scope, tables.daily_spend.c.currency, tables.daily_spend.c.micros).where(
    tables.daily_spend.c.day == bindparam("day"), one_of(tables.daily_spend.c.scope, "scopes")
)


def _begin(connection: Connection, today: date, zone: ZoneInfo, limits: Sequence[Limit], spent: Sums) -> Sums:
    """What is to be added to `spent`, where it was not all counted: a limit is new, or was not set for a while.

    As far as the counts by hour tell, which know no keys. Where nothing was counted today they are asked only for
    what did not count yesterday either: what left before midnight and was answered behind it is yesterday's. A
    process asks them once for each limit that it finds, for it was started with it.
    """
    here = _here(connection)
    yesterday = _spent(connection, (today - timedelta(days=1)).isoformat(), [one.scope for one in limits])
    counted = {scope for scope, _ in [*yesterday, *spent]}
    compared = [one for one in limits if one.scope not in here.compared & counted]
    billed = _billed(connection, datetime.combine(today, time(), zone), compared)
    missing: Sums = Counter(
        {one: micros - spent[one] for one, micros in billed.items() if micros > spent[one]}
    )
    day = today.isoformat()
    begun = {(day, limit.scope, limit.currency): 0 for limit in limits}
    _add(connection, begun | {(day, *sum_of): micros for sum_of, micros in missing.items()})
    # Where something was missing the next last check compares again: this one may be rolled back.
    here.compared.update({one.scope for one in compared} - {scope for scope, _ in missing})
    connection.execute(
        delete(tables.daily_spend).where(tables.daily_spend.c.day < (today - KEPT).isoformat())
    )
    return missing


def _billed(connection: Connection, since: datetime, limits: Sequence[Limit]) -> Sums:
    sums: Sums = Counter()
    scopes = {limit.scope for limit in limits}
    if scopes:
        for row in connection.execute(_ACCEPTED, {"since": since}):
            for scope in scopes & {ACCOUNT, SENDER + sender_key(row.sender_id)}:
                sums[scope, row.currency] += int(row.micros)
    return sums


_BOTH = union_all(
    *(
        select(table.c.hour, table.c.status, table.c.sender_id, table.c.currency, table.c.micros)
        for table in (tables.hourly_counts, tables.status_deltas)
    )
).subquery()
_ACCEPTED = (
    select(_BOTH.c.sender_id, _BOTH.c.currency, func.sum(_BOTH.c.micros).label("micros"))
    .where(_BOTH.c.status == statuses.ACCEPTED, _BOTH.c.currency != "")
    .where(_BOTH.c.hour >= bindparam("since", type_=tables.hourly_counts.c.hour.type))
    .group_by(_BOTH.c.sender_id, _BOTH.c.currency)
)


def correct_by_answer(
    connection: Connection,
    charges: Charges | None,
    counted: str | None,
    answers: Mapping[str, RecipientAnswer],
    now: datetime,
) -> None:
    """AT has billed: its costs take the place of what was counted before.

    `counted`: as the attempt has it. Without, for a database was put back since, all of the costs are new to it.
    """
    if charges is None:
        return
    day, before = _read(counted) or (
        now.astimezone(ZoneInfo(charges.time_zone)).date().isoformat(),
        Counter(),
    )
    billed: Sums = Counter()
    for recipient, charge in charges.by_recipient.items():
        if recipient in answers:
            micros, currency = _bill(answers[recipient], charge)
            if currency is not None:
                billed.update({(limit.scope, currency): micros for limit in charge.limits})
    _change(connection, day, billed, before)


def _bill(answer: RecipientAnswer, charge: Charge) -> tuple[int, str | None]:
    if answer.outcome in ("not_sent", "rejected"):
        return 0, charge.currency
    if answer.cost is None or answer.outcome == "unknown":
        return charge.micros, charge.currency
    return answer.cost.micros, answer.cost.currency or charge.currency


def take_back(connection: Connection, counted: Iterable[str | None]) -> None:
    """Of attempts of which certainly nothing left."""
    for one in counted:
        found = _read(one)
        if found is not None:
            _change(connection, found[0], Counter(), found[1])


def _change(connection: Connection, day: str, now_is: Sums, was: Sums) -> None:
    rows = [
        {"day": day, "scope": scope, "currency": currency, "micros": micros}
        for scope, currency in sorted(now_is.keys() | was.keys())
        if (micros := now_is[scope, currency] - was[scope, currency])
    ]
    if rows:
        connection.execute(insert(tables.spend_changes), rows)


def _as_json(day: str, sums: Sums) -> str:
    return json.dumps({"day": day, "sums": [[*sum_of, micros] for sum_of, micros in sums.items()]})


def _read(counted: str | None) -> tuple[str, Sums] | None:
    if counted is None:
        return None
    found = json.loads(counted)
    return found["day"], Counter({(scope, currency): micros for scope, currency, micros in found["sums"]})


def spent_today(connection: Connection, now: datetime, time_zone: str) -> Sums:
    """What the limits have counted so far, for who looks at them."""
    day = now.astimezone(ZoneInfo(time_zone)).date().isoformat()
    both = union_all(
        *(
            select(table.c.scope, table.c.currency, table.c.micros).where(table.c.day == day)
            for table in (tables.daily_spend, tables.spend_changes)
        )
    ).subquery()
    sums = select(both.c.scope, both.c.currency, func.sum(both.c.micros).label("micros"))
    rows = connection.execute(sums.group_by(both.c.scope, both.c.currency))
    return Counter({(row.scope, row.currency): int(row.micros) for row in rows})
