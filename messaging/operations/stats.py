"""What was sent, what became of it and what it cost, by hour or by day: read from counts, never from messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, Connection, Row, cast, func, select, union_all

from messaging.batches.progress import amounts
from messaging.messages.status_counts import DELAYS, hour_of
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils import reasons
from utils.errors import InvalidInput
from utils.json_shapes import rfc3339
from utils.provider_codes import network_name

HOUR, DAY = "hour", "day"
BUCKETS = (DAY, HOUR)
DEFAULT_DAYS = 7
MOST_BUCKETS = 800
ONE_HOUR = timedelta(hours=1)
SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

_WORDS = ("hour", "status", "reason", "sender_id", "network", "currency", "delay")
_NUMBERS = ("messages", "parts", "micros")


@dataclass(frozen=True, slots=True)
class Period:
    """`since` is included, `until` is not; both are whole hours in UTC. Days are those of `zone`."""

    since: datetime
    until: datetime
    bucket: str
    zone: ZoneInfo

    def start_of(self, at: datetime) -> datetime:
        """Of the bucket that `at` is in, or the beginning of the period where that is later."""
        if self.bucket == HOUR:
            return max(hour_of(at), self.since)
        return max(_midnight(at.astimezone(self.zone).date(), self.zone), self.since)

    def starts(self) -> Iterator[datetime]:
        at = self.since
        while at < self.until:
            yield at
            day = at.astimezone(self.zone).date() + timedelta(days=1)
            at = at + ONE_HOUR if self.bucket == HOUR else _midnight(day, self.zone)


def stats(
    database: Database,
    time_zone: str,
    since: datetime | None = None,
    until: datetime | None = None,
    bucket: str = DAY,
) -> dict[str, Any]:
    """In the shape of `GET /v1/stats`. Raises InvalidInput."""
    zone = ZoneInfo(time_zone)
    with database.read() as connection:
        period = _period(zone, since, until, bucket, wall_clock(connection))
        return _in_json(connection, period)


def _period(
    zone: ZoneInfo, since: datetime | None, until: datetime | None, bucket: str, now: datetime
) -> Period:
    """Without `until` it ends now, without `since` it begins with the day a week before its end."""
    end = _whole_hour_after(until or now)
    first_day = (end - ONE_HOUR).astimezone(zone).date() - timedelta(days=DEFAULT_DAYS - 1)
    begin = _midnight(first_day, zone) if since is None else hour_of(since.astimezone(UTC))
    if begin >= end:
        raise InvalidInput("since must lie before until", code="invalid_time", field="since")
    hours = (end - begin) // ONE_HOUR
    if (hours if bucket == HOUR else hours / 24) > MOST_BUCKETS:
        raise InvalidInput(
            f"At most {MOST_BUCKETS} {bucket}s at once: ask for a shorter time or larger buckets",
            code="invalid_time",
            field="since",
        )
    return Period(begin, end, bucket, zone)


def _whole_hour_after(at: datetime) -> datetime:
    hour = hour_of(at.astimezone(UTC))
    return hour if hour == at else hour + ONE_HOUR


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    # In a zone of half hours a day begins with its first whole hour in UTC.
    return _whole_hour_after(datetime.combine(day, time(), zone))


def _in_json(connection: Connection, period: Period) -> dict[str, Any]:
    by_hour = _sums(connection, period, "hour", "status", "currency")
    buckets: dict[datetime, list[Any]] = {start: [] for start in period.starts()}
    for row in by_hour:
        buckets[period.start_of(row.hour)].append(row)
    delays = {row.delay: row.messages for row in _sums(connection, period, "delay") if row.delay}
    return {
        "since": rfc3339(period.since),
        "until": rfc3339(period.until),
        "bucket": period.bucket,
        "time_zone": period.zone.key,
        "items": [{"at": rfc3339(start), **_figures(rows)} for start, rows in buckets.items()],
        "totals": _figures(by_hour),
        "networks": _by(_sums(connection, period, "network", "status", "currency"), "network", network_name),
        "senders": _by(
            _sums(connection, period, "sender_id", "status", "currency"),
            "sender_id",
            lambda sender_id: sender_id,
        ),
        "reasons": [
            {
                "status": row.status,
                "reason": row.reason,
                "messages": row.messages,
                **reasons.in_json(row.reason, row.status),
            }
            for row in sorted(_sums(connection, period, "status", "reason"), key=_most_first)
            if row.reason
        ],
        "delivery_seconds": {"messages": sum(delays.values()), **_percentiles(delays)},
    }


def _sums(connection: Connection, period: Period, *words: str) -> list[Row[Any]]:
    """The folded counts and the deltas of one moment, for one statement reads both."""
    parts = [
        select(*(table.c[name] for name in (*_WORDS, *_NUMBERS))).where(
            table.c.hour >= period.since, table.c.hour < period.until
        )
        for table in (tables.hourly_counts, tables.status_deltas)
    ]
    both = union_all(*parts).subquery()
    told_apart = [both.c[name] for name in words]
    # A sum of BIGINT is NUMERIC on PostgreSQL.
    sums = [cast(func.sum(both.c[name]), BigInteger).label(name) for name in _NUMBERS]
    statement = select(*told_apart, *sums).group_by(*told_apart).order_by(*told_apart)
    return list(connection.execute(statement))


def _figures(rows: Iterable[Any]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    micros: Counter[str | None] = Counter()
    parts = 0
    for row in rows:
        counts[row.status] += row.messages
        micros[row.currency or None] += row.micros
        parts += row.parts
    return {"counts": dict(counts), "costs": amounts(micros), "parts": parts}


def _by(rows: Iterable[Any], word: str, show: Callable[[str | None], str | None]) -> list[dict[str, Any]]:
    """Networks have several codes under one name."""
    groups: dict[str | None, list[Any]] = {}
    for row in rows:
        groups.setdefault(show(row[0] or None), []).append(row)
    return [{word: name, **_figures(mine)} for name, mine in groups.items()]


def _most_first(row: Any) -> tuple[int, str, str]:
    return -row.messages, row.status, row.reason


def _percentiles(delays: Mapping[int, int]) -> dict[str, float | None]:
    """Within a step of the histogram times are taken to be spread evenly; the last step shows where it begins."""
    total = sum(delays.values())
    return {name: _quantile(delays, share * total) if total else None for name, share in SHARES.items()}


def _quantile(delays: Mapping[int, int], wanted: float) -> float:
    passed = 0
    for step, messages in sorted(delays.items()):
        if passed + messages >= wanted:
            low = 0 if step == 1 else DELAYS[step - 2]
            high = DELAYS[step - 1] if step <= len(DELAYS) else low
            return round(low + (high - low) * (wanted - passed) / messages, 1)
        passed += messages
    return float(DELAYS[-1])
