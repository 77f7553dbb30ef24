"""`max_cost`: a batch stops before a POST that could take it past what it may cost.

A claim holds back the price of its texts, in its own transaction and with the batch's row locked, so that
several workers together stay below. What a POST came to replaces what it held back; of a lost answer, that
stays. The price is the last one seen for a number's prefix or country. Where none was seen the first text goes
alone and holds back all that is left: the next ones know. A price that rose since may pass the limit, by what
it rose in the POSTs that were under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from messaging.batch_statuses import MAY_SEND
from messaging.costs.prices import PriceBook
from messaging.storage import tables
from messaging.storage.bulk import one_of
from utils.provider_answers import RecipientAnswer
from utils.segments import measure

MAX_COST = "max_cost"
OTHER_CURRENCY = "max_cost_currency"

_WITH_BUDGET = (
    select(
        tables.batches.c.id,
        tables.batches.c.sender_id,
        tables.batches.c.spent_micros,
        tables.batches.c.max_cost_micros,
        tables.batches.c.max_cost_currency,
    )
    .where(one_of(tables.batches.c.id, "ids"), tables.batches.c.max_cost_micros.is_not(None))
    .order_by(tables.batches.c.id)
    .with_for_update()
)
_HELD_BACK = (
    select(tables.attempts.c.budget_batch_id, func.sum(tables.attempts.c.reserved_micros).label("micros"))
    .where(tables.OPEN, one_of(tables.attempts.c.budget_batch_id, "ids"))
    .group_by(tables.attempts.c.budget_batch_id)
)
_PAUSE = (
    update(tables.batches)
    .where(tables.batches.c.id == bindparam("batch_id"), tables.batches.c.status.in_(MAY_SEND))
    .values(status="paused", reason=bindparam("why"))
)
_SPEND = (
    update(tables.batches)
    .where(tables.batches.c.id == bindparam("batch_id"))
    .values(spent_micros=tables.batches.c.spent_micros + bindparam("micros"))
)


@dataclass(slots=True)
class Budget:
    """What one claim may still hold back of a batch. Money in micros of its currency."""

    batch_id: int
    currency: str
    left: int
    is_waiting: bool
    prices: PriceBook
    held_back: int = field(default=0)
    refused: str | None = field(default=None)

    def admit(self, recipient: str, text: str, parts: int | None) -> int | None:
        """What this text holds back; None: it has to wait, or the batch ends here."""
        if self.left <= 0 or self.refused:
            self.refused = self.refused or MAX_COST
            return None
        price = self.prices.price_for(recipient)
        if price is None:
            return self._learn()
        cost = price.micros_per_part * (parts or measure(text).parts)
        if price.currency != self.currency or cost > self.left:
            self.refused = MAX_COST if price.currency == self.currency else OTHER_CURRENCY
            return None
        return self._hold_back(cost)

    def _learn(self) -> int | None:
        """A price nobody knows: alone, with all that is left, once nothing else is under way."""
        if self.is_waiting or self.held_back:
            self.refused = MAX_COST
            return None
        return self._hold_back(self.left)

    def _hold_back(self, micros: int) -> int:
        self.left -= micros
        self.held_back += micros
        return micros

    @property
    def is_used_up(self) -> bool:
        """Nothing more can go: not now, and not when what is under way has come to less than was held back."""
        return self.refused is not None and not self.held_back and not self.is_waiting


def open_budgets(connection: Connection, rows: Iterable[Any]) -> Mapping[int, Budget]:
    """Of those batches of the rows (`batch_id`) that have one; locked until the transaction ends."""
    ids = sorted({row.batch_id for row in rows if row.batch_id is not None})
    if not ids:
        return {}
    found = connection.execute(_WITH_BUDGET, {"ids": ids}).all()
    if not found:
        return {}
    known = {"ids": [row.id for row in found]}
    held = {row.budget_batch_id: int(row.micros or 0) for row in connection.execute(_HELD_BACK, known)}
    return {
        row.id: Budget(
            row.id,
            row.max_cost_currency,
            row.max_cost_micros - row.spent_micros - held.get(row.id, 0),
            row.id in held,
            PriceBook(connection, row.sender_id),
        )
        for row in found
    }


def pause_used_up(connection: Connection, budgets: Iterable[Budget]) -> None:
    for one in budgets:
        if one.is_used_up:
            connection.execute(_PAUSE, {"batch_id": one.batch_id, "why": one.refused})


def charge_answer(
    connection: Connection, budget: tuple[int, int, str], answers: Mapping[str, RecipientAnswer], was: int
) -> None:
    """`budget`: batch, what the POST held back, currency. `was`: what a sweep has charged for it already."""
    batch_id, held_back, currency = budget
    share = held_back // max(len(answers), 1)
    bills = [_bill(answer, share, currency) for answer in answers.values()]
    _spend(connection, batch_id, sum(bills) - was)
    foreign = any(one.cost and one.cost.amount and one.cost.currency != currency for one in answers.values())
    if foreign:
        connection.execute(_PAUSE, {"batch_id": batch_id, "why": OTHER_CURRENCY})


def _bill(answer: RecipientAnswer, share: int, currency: str) -> int:
    if answer.outcome in ("not_sent", "rejected"):
        return 0
    if answer.cost is None or answer.outcome == "unknown":
        return share
    return answer.cost.micros if answer.cost.currency in (currency, None) else 0


def charge_loss(connection: Connection, batch_id: int | None, held_back: int | None) -> None:
    """An answer was lost: AT may have billed all of it."""
    if batch_id is not None and held_back:
        _spend(connection, batch_id, held_back)


def _spend(connection: Connection, batch_id: int, micros: int) -> None:
    if micros:
        connection.execute(_SPEND, {"batch_id": batch_id, "micros": micros})
