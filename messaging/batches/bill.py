"""Our estimate beside Africa's Talking's bill, for one batch: where they differ, a quote was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, case, func, select

from messaging.batches.progress import amounts, require_batch
from messaging.costs.prices import PREFIX_LENGTH, LastPrices
from messaging.storage import tables
from messaging.storage.database import Database

MOST_EXAMPLES = 20
_DIFFERS = tables.messages.c.parts != tables.messages.c.estimated_parts
_PREFIX = func.substr(tables.messages.c.recipient, 1, PREFIX_LENGTH)


def bill(database: Database, batch_id: int) -> dict[str, Any]:
    """Over the messages whose answer stated their parts. Reads all of the batch's rows. Raises NotFound."""
    counted = (tables.messages.c.batch_id == batch_id, tables.messages.c.parts.is_not(None))
    sums = (
        select(
            func.min(tables.messages.c.recipient).label("example"),
            tables.messages.c.cost_currency,
            func.count().label("messages"),
            func.coalesce(func.sum(tables.messages.c.estimated_parts), 0).label("estimated_parts"),
            func.sum(tables.messages.c.parts).label("billed_parts"),
            func.sum(case((_DIFFERS, 1), else_=0)).label("differing"),
            func.coalesce(func.sum(tables.messages.c.cost_micros), 0).label("micros"),
        )
        .where(*counted)
        .group_by(_PREFIX, tables.messages.c.cost_currency)
    )
    examples = select(tables.messages.c.id, tables.messages.c.estimated_parts, tables.messages.c.parts).where(
        *counted, _DIFFERS
    )
    with database.read() as connection:
        batch = require_batch(connection, batch_id)
        groups = connection.execute(sums).all()
        differing = sum(group.differing for group in groups)
        rows = connection.execute(examples.limit(MOST_EXAMPLES)).all() if differing else []
        costs = _costs(connection, batch.sender_id, groups)
    return {
        "messages": sum(group.messages for group in groups),
        "estimated_parts": int(sum(group.estimated_parts for group in groups)),
        "billed_parts": int(sum(group.billed_parts for group in groups)),
        "differing": int(differing),
        **costs,
        "examples": [
            {"id": row.id, "estimated_parts": row.estimated_parts, "billed_parts": row.parts} for row in rows
        ],
    }


def _costs(connection: Connection, sender_id: str | None, groups: Sequence[Row[Any]]) -> dict[str, Any]:
    """By currency: what a quote would say today, and what was billed. A group has one prefix and one currency."""
    prices = LastPrices(connection)
    estimated: Counter[str | None] = Counter()
    billed: Counter[str | None] = Counter()
    unpriced = 0
    for group in groups:
        price = prices.price_near(sender_id, group.example)
        if price is None:
            unpriced += group.messages
        else:
            estimated[price.currency] += price.micros_per_part * int(group.estimated_parts)
        billed[group.cost_currency] += int(group.micros)
    return {"estimated_costs": amounts(estimated), "billed_costs": amounts(billed), "unpriced": unpriced}
