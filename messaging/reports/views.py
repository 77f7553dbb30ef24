"""Which delivery reports have taken effect, by AT's ids. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from messaging.reports.parked import IS_PARKED
from messaging.storage import tables
from messaging.storage.bulk import one_of
from messaging.storage.database import Database
from utils.errors import InvalidInput

MOST_IDS = 100

_COLUMNS = (tables.delivery_reports.c.provider_message_id, tables.delivery_reports.c.word)
_PARKED = select(*_COLUMNS).where(
    one_of(tables.delivery_reports.c.provider_message_id, "provider_ids"), IS_PARKED
)
_JOINED = (
    select(*_COLUMNS)
    .join(tables.messages, tables.messages.c.id == tables.delivery_reports.c.message_id)
    .where(one_of(tables.messages.c.provider_message_id, "provider_ids"))
)


def applied_reports(database: Database, provider_ids: Sequence[str]) -> list[dict[str, str]]:
    """As AT names them: `id` and `status`, its word. Raises InvalidInput where too many are asked for."""
    if len(provider_ids) > MOST_IDS:
        raise InvalidInput(f"Ask for at most {MOST_IDS} ids", field="id")
    wanted = {"provider_ids": list(provider_ids)}
    with database.read() as connection:
        rows = [tuple(row) for look in (_PARKED, _JOINED) for row in connection.execute(look, wanted)]
    return [{"id": provider_id, "status": word} for provider_id, word in sorted(set(rows))]
