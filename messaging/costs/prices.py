"""What a part last cost: learnt from every answer that names a price, asked for before spending.

The first seven characters of a number (`+254712`) stand for its network: which network it is AT says only in
the report, and numbers that moved to another network are few. A country's latest price stands in for a prefix
that was never texted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, func, select
from sqlalchemy import text as text_clause

from messaging.storage import tables
from messaging.storage.bulk import insert_for, one_of
from messaging.storage.database import Database
from utils.json_shapes import booked_money
from utils.phone_numbers import region_of
from utils.provider_answers import RecipientAnswer
from utils.segments import measure
from utils.sender_ids import sender_key

PREFIX_LENGTH = 7
# Of a message, for sums by it.
PREFIX = func.substr(tables.messages.c.recipient, 1, PREFIX_LENGTH)
KNOWN_FOR = timedelta(minutes=5)
_TRY_LOCK = text_clause("SELECT pg_try_advisory_xact_lock(hashtextextended('prices', 0))")
_KNOWN = select(tables.prices.c.prefix, tables.prices.c.currency, tables.prices.c.micros_per_part).where(
    one_of(tables.prices.c.prefix, "prefixes")
)


@dataclass(frozen=True, slots=True)
class Price:
    micros_per_part: int
    currency: str


class PriceBook:
    """The prices of one sender, as they stood when it was opened."""

    def __init__(self, connection: Connection, sender_id: str | None) -> None:
        statement = select(tables.prices).where(tables.prices.c.sender_id == sender_key(sender_id))
        self._by_prefix: dict[str, Price] = {}
        self._by_country: dict[str, Price] = {}
        for row in connection.execute(statement.order_by(tables.prices.c.seen_at)):
            price = Price(row.micros_per_part, row.currency)
            self._by_prefix[row.prefix] = price
            if row.country is not None:
                self._by_country[row.country] = price

    def price_for(self, e164: str) -> Price | None:
        return self._by_prefix.get(prefix_of(e164)) or self._by_country.get(region_of(e164) or "")


class LastPrices:
    """The prices of all senders.

    For a sender that never texted a network it is what another sender paid there, then the country's latest; and for
    a limit, to which an unknown price is not nothing, the latest of all.
    """

    def __init__(self, connection: Connection) -> None:
        self._by_sender: dict[tuple[str, str], Price] = {}
        self._by_place: dict[str, Price] = {}
        self._near: dict[tuple[str, str], Price | None] = {}
        self._latest: Price | None = None
        for row in connection.execute(select(tables.prices).order_by(tables.prices.c.seen_at)):
            self._latest = price = Price(row.micros_per_part, row.currency)
            for place in (row.prefix, row.country):
                if place is not None:
                    self._by_sender[row.sender_id, place] = self._by_place[place] = price

    def price_for(self, sender_id: str | None, e164: str) -> Price | None:
        return self.price_near(sender_id, e164) or self._latest

    def price_near(self, sender_id: str | None, e164: str) -> Price | None:
        """None where nobody has texted that network or its country."""
        asked = sender_key(sender_id), prefix_of(e164)
        # Numbers of one prefix come by the thousand, and their country is looked up once.
        if asked not in self._near:
            self._near[asked] = self._look(*asked, e164)
        return self._near[asked]

    def _look(self, sender: str, prefix: str, e164: str) -> Price | None:
        known = self._by_sender.get((sender, prefix))
        if known is not None or self._latest is None:
            return known
        country = region_of(e164) or ""
        return (
            self._by_sender.get((sender, country))
            or self._by_place.get(prefix)
            or self._by_place.get(country)
        )


class Going(NamedTuple):
    """Texts of one batch to numbers of one prefix, of which `example` is one."""

    example: str
    texts: int
    parts: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a batch comes to, by currency, at the last known prices.

    `unpriced`: texts to networks and countries that nobody has texted. What another country costs says nothing here:
    a batch of unknown cost is to wait.
    """

    micros: Mapping[str, int]
    unpriced: int


def estimate(connection: Connection, sender_id: str | None, going: Iterable[Going]) -> Estimate:
    prices = LastPrices(connection)
    micros: Counter[str] = Counter()
    unpriced = 0
    for one in going:
        price = prices.price_near(sender_id, one.example)
        if price is None:
            unpriced += one.texts
        else:
            micros[price.currency] += price.micros_per_part * one.parts
    return Estimate(micros, unpriced)


def cost_of_one(database: Database, sender_id: str | None, phone: str, parts: int) -> dict[str, Any] | None:
    """Of one text, as the API writes money; None where no price near this number is known."""
    with database.read() as connection:
        found = estimate(connection, sender_id, [Going(phone, 1, parts)])
    return next((booked_money(micros, currency) for currency, micros in found.micros.items()), None)


def prefix_of(e164: str) -> str:
    return e164[:PREFIX_LENGTH]


def learn(
    database: Database,
    connection: Connection,
    sender_id: str | None,
    text: str,
    answers: Iterable[RecipientAnswer],
    now: datetime,
) -> None:
    """Costs a look at the table only for what this process has not found there in the last minutes."""
    sender = sender_key(sender_id)
    known = _known_here.setdefault(database, _KnownHere(now))
    known.forget_old(now)
    seen = [one for one in _observed(text, answers) if not known.has(sender, one)]
    if not seen:
        return
    prefixes = {"prefixes": [one["prefix"] for one in seen]}
    rows = connection.execute(_KNOWN.where(tables.prices.c.sender_id == sender), prefixes)
    known.add(sender, [row._asdict() for row in rows])
    news = [one | {"sender_id": sender, "seen_at": now} for one in seen if not known.has(sender, one)]
    if news and _may_write(connection):
        known.drop(sender, news)
        _write(connection, news)


class _KnownHere:
    """What was found in the table: never what was only written, for that may have been rolled back."""

    def __init__(self, now: datetime) -> None:
        self._since = now
        self._prices: dict[tuple[str, str], tuple[str, int]] = {}

    def forget_old(self, now: datetime) -> None:
        if now - self._since > KNOWN_FOR:
            self._since, self._prices = now, {}

    def has(self, sender: str, price: dict[str, Any]) -> bool:
        found = self._prices.get((sender, price["prefix"]))
        return found == (price["currency"], price["micros_per_part"])

    def add(self, sender: str, found: Iterable[dict[str, Any]]) -> None:
        for one in found:
            self._prices[sender, one["prefix"]] = (one["currency"], one["micros_per_part"])

    def drop(self, sender: str, changed: Iterable[dict[str, Any]]) -> None:
        for one in changed:
            self._prices.pop((sender, one["prefix"]), None)


_known_here: WeakKeyDictionary[Database, _KnownHere] = WeakKeyDictionary()


def _may_write(connection: Connection) -> bool:
    """One at a time, and nobody waits: two transactions could wait crosswise, and the next answer tells the same."""
    return connection.dialect.name == "sqlite" or bool(connection.execute(_TRY_LOCK).scalar_one())


def _observed(text: str, answers: Iterable[RecipientAnswer]) -> list[dict[str, Any]]:
    """One per prefix; what is free or names no currency (premium texts) tells no price."""
    parts = measure(text).parts
    seen: dict[str, dict[str, Any]] = {}
    for answer in answers:
        prefix, cost = prefix_of(answer.number), answer.cost
        if prefix in seen or answer.outcome != "accepted" or cost is None or cost.currency is None:
            continue
        micros = cost.micros // (answer.parts or parts)
        if micros > 0:
            seen[prefix] = {
                "prefix": prefix,
                "country": region_of(answer.number),
                "currency": cost.currency,
                "micros_per_part": micros,
            }
    return list(seen.values())


def _write(connection: Connection, rows: list[dict[str, Any]]) -> None:
    statement = insert_for(connection, tables.prices)
    changed = {
        name: statement.excluded[name] for name in ("country", "currency", "micros_per_part", "seen_at")
    }
    for row in rows:
        connection.execute(
            statement.values(**row).on_conflict_do_update(
                index_elements=[tables.prices.c.sender_id, tables.prices.c.prefix], set_=changed
            )
        )
