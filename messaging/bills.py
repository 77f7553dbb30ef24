"""Our count of parts beside Africa's Talking's, for one batch: where they differ, a quote was wrong."""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, func, select

from messaging.batch_progress import require_batch
from messaging.database import Database
from messaging.models import messages

MOST_EXAMPLES = 20
_DIFFERS = messages.c.parts != messages.c.estimated_parts


def bill(database: Database, batch_id: int) -> dict[str, Any]:
    """Over the messages whose answer told their parts. Reads all of the batch's rows. Raises NotFound."""
    counted = (messages.c.batch_id == batch_id, messages.c.parts.is_not(None))
    sums = select(
        func.count().label("messages"),
        func.coalesce(func.sum(messages.c.estimated_parts), 0).label("estimated_parts"),
        func.coalesce(func.sum(messages.c.parts), 0).label("billed_parts"),
        func.coalesce(func.sum(case((_DIFFERS, 1), else_=0)), 0).label("differing"),
    ).where(*counted)
    examples = select(messages.c.id, messages.c.estimated_parts, messages.c.parts).where(*counted, _DIFFERS)
    with database.read() as connection:
        require_batch(connection, batch_id)
        total = connection.execute(sums).one()
        rows = connection.execute(examples.limit(MOST_EXAMPLES)).all() if total.differing else []
    return {
        "messages": total.messages,
        "estimated_parts": int(total.estimated_parts),
        "billed_parts": int(total.billed_parts),
        "differing": int(total.differing),
        "examples": [
            {"id": row.id, "estimated_parts": row.estimated_parts, "billed_parts": row.parts} for row in rows
        ],
    }
