"""Our estimate beside Africa's Talking's bill, for one batch: where they differ, a quote was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, case, func, select

from messaging.batches.progress import amounts, require_batch
from messaging.costs.prices import PREFIX, Going, estimate
from messaging.storage import tables
from messaging.storage.database import Database

MOST_EXAMPLES = 20
_DIFFERS = tables.messages.c.parts != tables.messages.c.estimated_parts


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
        .group_by(PREFIX, tables.messages.c.cost_currency)
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
    going = (Going(group.example, group.messages, int(group.estimated_parts)) for group in groups)
    today = estimate(connection, sender_id, going)
    billed: Counter[str | None] = Counter()
    for group in groups:
        billed[group.cost_currency] += int(group.micros)
    return {
        "estimated_costs": amounts(today.micros),
        "billed_costs": amounts(billed),
        "unpriced": today.unpriced,
    }
