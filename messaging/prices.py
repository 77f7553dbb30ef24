"""What a part last cost: learnt from every answer that names a price, asked for before spending.

The first seven characters of a number (`+254712`) stand for its network: which network it is AT says only in
the report, and numbers that moved to another network are few. A country's latest price stands in for a prefix
that was never texted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from messaging.models import prices
from messaging.opt_outs import sender_key
from messaging.upsert import insert_for
from messaging.value_lists import one_of
from utils.phone_numbers import region_of
from utils.provider_answers import RecipientAnswer
from utils.segments import measure

PREFIX_LENGTH = 7
_KNOWN = select(prices.c.prefix, prices.c.currency, prices.c.micros_per_part).where(
    one_of(prices.c.prefix, "prefixes")
)


@dataclass(frozen=True, slots=True)
class Price:
    micros_per_part: int
    currency: str


class PriceBook:
    """The prices of one sender, as they stood when it was opened."""

    def __init__(self, connection: Connection, sender_id: str | None) -> None:
        statement = select(prices).where(prices.c.sender_id == sender_key(sender_id))
        self._by_prefix: dict[str, Price] = {}
        self._by_country: dict[str, Price] = {}
        for row in connection.execute(statement.order_by(prices.c.seen_at)):
            price = Price(row.micros_per_part, row.currency)
            self._by_prefix[row.prefix] = price
            if row.country is not None:
                self._by_country[row.country] = price

    def price_for(self, e164: str) -> Price | None:
        return self._by_prefix.get(prefix_of(e164)) or self._by_country.get(region_of(e164) or "")


def prefix_of(e164: str) -> str:
    return e164[:PREFIX_LENGTH]


def learn(
    connection: Connection,
    sender_id: str | None,
    text: str,
    answers: Iterable[RecipientAnswer],
    now: datetime,
) -> None:
    """Last in its transaction: two workers that learn the same wait for each other's rows, in one order."""
    seen = _observed(text, answers)
    if not seen:
        return
    sender = sender_key(sender_id)
    known = connection.execute(
        _KNOWN.where(prices.c.sender_id == sender), {"prefixes": [price["prefix"] for price in seen]}
    )
    unchanged = {(row.prefix, row.currency, row.micros_per_part) for row in known}
    news = [
        one | {"sender_id": sender, "seen_at": now}
        for one in seen
        if (one["prefix"], one["currency"], one["micros_per_part"]) not in unchanged
    ]
    if news:
        _write(connection, sorted(news, key=lambda one: str(one["prefix"])))


def _observed(text: str, answers: Iterable[RecipientAnswer]) -> list[dict[str, Any]]:
    """One per prefix; what is free or names no currency (premium texts) tells no price."""
    parts = measure(text).parts
    seen: dict[str, dict[str, Any]] = {}
    for answer in answers:
        prefix, cost = prefix_of(answer.number), answer.cost
        if prefix in seen or answer.outcome != "accepted" or cost is None or cost.currency is None:
            continue
        micros = int(cost.amount.scaleb(6)) // (answer.parts or parts)
        if micros > 0:
            seen[prefix] = {
                "prefix": prefix,
                "country": region_of(answer.number),
                "currency": cost.currency,
                "micros_per_part": micros,
            }
    return list(seen.values())


def _write(connection: Connection, rows: list[dict[str, Any]]) -> None:
    statement = insert_for(connection, prices)
    changed = {
        name: statement.excluded[name] for name in ("country", "currency", "micros_per_part", "seen_at")
    }
    for row in rows:
        connection.execute(
            statement.values(**row).on_conflict_do_update(
                index_elements=[prices.c.sender_id, prices.c.prefix], set_=changed
            )
        )
