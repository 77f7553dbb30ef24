"""What holds a batch before its first text: more than `APPROVAL_ABOVE`, or far more than on a usual day.

Asked in the transaction that would let its texts go, so that there is no moment in which one could be claimed.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, time, timedelta
from statistics import median
from typing import NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, func, literal_column, select, union_all

from messaging import statuses
from messaging.costs.prices import PREFIX, Estimate, Going
from messaging.storage import tables
from utils.money import Money
from utils.reasons import NEEDS_APPROVAL, UNUSUAL_VOLUME
from utils.settings import Settings

USUAL_DAYS = 28
# Where UNUSUAL_FACTOR is not set the page with the new send warns from here on.
WARNED_FACTOR = 40.0
# Of an unknown price nobody can say what many texts come to; a few may go, for they teach it.
FEW_TEXTS = 10


class Brake(NamedTuple):
    """`detail`: its figures, for the sentence that explains `reason`."""

    reason: str
    detail: str


def going_of_batch(connection: Connection, batch_id: int) -> list[Going]:
    """Reads all of its rows: asked only where `APPROVAL_ABOVE` is money."""
    statement = (
        select(
            func.min(tables.messages.c.recipient),
            func.count(),
            func.sum(func.coalesce(tables.messages.c.estimated_parts, 1)),
        )
        .where(tables.messages.c.batch_id == batch_id)
        .group_by(PREFIX)
    )
    return [Going(example, texts, int(parts)) for example, texts, parts in connection.execute(statement)]


def asks_for_money(settings: Settings) -> bool:
    return isinstance(settings.approval_above, Money)


def find_brake(
    settings: Settings, connection: Connection, now: datetime, texts: int, costs: Estimate | None
) -> Brake | None:
    """`costs`: only where `asks_for_money`."""
    return needs_approval(settings.approval_above, texts, costs) or _unusual(settings, connection, now, texts)


def needs_approval(above: int | Money | None, texts: int, costs: Estimate | None) -> Brake | None:
    if isinstance(above, Money):
        return None if costs is None else _costs_more(above, texts, costs)
    if above is None or texts <= above:
        return None
    return Brake(NEEDS_APPROVAL, f"{texts:,} texts, above {above:,}")


def _costs_more(above: Money, texts: int, costs: Estimate) -> Brake | None:
    micros = costs.micros.get(above.currency or "", 0)
    if micros > above.micros:
        about = Money(above.amount.from_float(micros / 1_000_000), above.currency)
        return Brake(NEEDS_APPROVAL, f"about {about.currency} {about.amount:,.2f}, above {above}")
    if texts > FEW_TEXTS and (costs.unpriced or costs.micros.keys() - {above.currency}):
        return Brake(
            NEEDS_APPROVAL, f"{texts:,} texts, and not all of their prices in {above.currency} are known"
        )
    return None


def _unusual(settings: Settings, connection: Connection, now: datetime, texts: int) -> Brake | None:
    factor = settings.unusual_factor
    # A usual day has one text at the least, so few texts cost no look.
    if factor is None or texts <= factor:
        return None
    usual = usual_day(connection, now, settings.time_zone)
    if usual is None or texts <= factor * usual:
        return None
    return Brake(UNUSUAL_VOLUME, times_usual(texts, usual))


def warn(settings: Settings, connection: Connection, now: datetime, texts: int) -> str | None:
    """For who is about to send, also where UNUSUAL_FACTOR is not set: a sentence, None where all is as usual."""
    usual = usual_day(connection, now, settings.time_zone)
    factor = settings.unusual_factor or WARNED_FACTOR
    return times_usual(texts, usual) if usual is not None and texts > factor * usual else None


def times_usual(texts: int, usual: float) -> str:
    return f"{texts:,} texts are {texts / usual:,.0f} times your usual day ({usual:,.0f})"


_BOTH = union_all(
    *(
        select(table.c.hour, table.c.status, table.c.messages)
        for table in (tables.hourly_counts, tables.status_deltas)
    )
).subquery()
_BY_HOUR = (
    select(_BOTH.c.hour, func.sum(_BOTH.c.messages).label("messages"))
    .where(_BOTH.c.status == literal_column(f"'{statuses.ACCEPTED}'"))
    .group_by(_BOTH.c.hour)
)


def usual_day(connection: Connection, now: datetime, time_zone: str) -> float | None:
    """The median of the texts that left on a day, of those of the last 28 days with any; None where there is none.

    From the counts by hour, never from the messages.
    """
    zone = ZoneInfo(time_zone)
    today = now.astimezone(zone).date()
    since = datetime.combine(today - timedelta(days=USUAL_DAYS), time(), zone)
    until = datetime.combine(today, time(), zone)
    days: Counter[object] = Counter()
    for row in connection.execute(_BY_HOUR.where(_BOTH.c.hour >= since, _BOTH.c.hour < until)):
        days[row.hour.astimezone(zone).date()] += int(row.messages)
    return float(median(days.values())) if days else None
