"""What the counts of hours add up to: by day of a zone, by network, sender, reason, currency, and in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from messaging.messages import status_counts
from messaging.operations.stats import stats
from messaging.storage import tables
from messaging.storage.database import Database
from utils.errors import InvalidInput

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAIROBI = "Africa/Nairobi"


def count(database: Database, at: datetime, status: str, messages: int = 1, **values: Any) -> None:
    row = {"hour": status_counts.hour_of(at), "status": status, "messages": messages}
    row |= {"reason": "", "sender_id": "", "network": "", "currency": "", "delay": 0, "parts": 0, "micros": 0}
    with database.write() as connection:
        connection.execute(insert(tables.status_deltas).values(**row | values))


def look(database: Database, since: datetime, until: datetime, bucket: str = "day", zone: str = "UTC") -> Any:
    return stats(database, zone, since, until, bucket)


def test_days_are_those_of_the_time_zone(database: Database) -> None:
    # 23:00 and 01:00 in Nairobi.
    count(database, datetime(2026, 11, 23, 20, tzinfo=UTC), "accepted", 2)
    count(database, datetime(2026, 11, 23, 22, tzinfo=UTC), "accepted", 3)
    begin = datetime(2026, 11, 22, 21, tzinfo=UTC)
    found = look(database, begin, begin + timedelta(days=3), zone=NAIROBI)
    assert [(one["at"], one["counts"]) for one in found["items"]] == [
        ("2026-11-22T21:00:00.000Z", {"accepted": 2}),
        ("2026-11-23T21:00:00.000Z", {"accepted": 3}),
        ("2026-11-24T21:00:00.000Z", {}),
    ]
    assert found["totals"]["counts"] == {"accepted": 5}


def test_hours_are_listed_one_by_one_also_empty_ones(database: Database) -> None:
    count(database, NOON, "delivered", 7)
    found = look(database, NOON - timedelta(hours=1), NOON + timedelta(hours=2), "hour")
    assert [one["counts"] for one in found["items"]] == [{}, {"delivered": 7}, {}]


def test_folded_and_new_counts_are_added(database: Database) -> None:
    count(database, NOON, "accepted", 2, currency="KES", micros=1_600_000, parts=2)
    status_counts.fold(database)
    count(database, NOON, "accepted", 1, currency="KES", micros=800_000, parts=1)
    count(database, NOON, "accepted", 1, currency="UGX", micros=35_000_000, parts=1)
    totals = look(database, NOON, NOON + timedelta(hours=1))["totals"]
    assert totals["counts"] == {"accepted": 4}
    assert totals["parts"] == 4
    assert totals["costs"] == [
        {"amount": "2.4000", "currency": "KES"},
        {"amount": "35.0000", "currency": "UGX"},
    ]


def test_what_is_outside_is_left_out(database: Database) -> None:
    for hours in (-1, 0, 1):
        count(database, NOON + timedelta(hours=hours), "accepted")
    assert look(database, NOON, NOON + timedelta(hours=1))["totals"]["counts"] == {"accepted": 1}


def test_networks_senders_and_reasons_are_told_apart(database: Database) -> None:
    count(database, NOON, "delivered", 5, network="63902", sender_id="CLINIC")
    count(database, NOON, "failed", 2, network="63902", sender_id="CLINIC", reason="absent_subscriber")
    # MTN has a code in each country, and one name.
    count(database, NOON, "delivered", 1, network="64110")
    count(database, NOON, "delivered", 1, network="62130")
    count(database, NOON, "failed", 1, reason="delivery_failed")
    found = look(database, NOON, NOON + timedelta(hours=1))
    networks = {one["network"]: one["counts"] for one in found["networks"]}
    assert networks == {
        "Safaricom": {"delivered": 5, "failed": 2},
        "MTN": {"delivered": 2},
        None: {"failed": 1},
    }
    senders = {one["sender_id"]: one["counts"] for one in found["senders"]}
    assert senders == {"CLINIC": {"delivered": 5, "failed": 2}, None: {"delivered": 2, "failed": 1}}
    assert [(one["status"], one["reason"], one["messages"]) for one in found["reasons"]] == [
        ("failed", "absent_subscriber", 2),
        ("failed", "delivery_failed", 1),
    ]


def test_percentiles_come_from_the_steps_of_the_histogram(database: Database) -> None:
    step = status_counts.delay_step
    count(database, NOON, "delivered", 90, delay=step(timedelta(seconds=4)))
    count(database, NOON, "delivered", 9, delay=step(timedelta(seconds=100)))
    count(database, NOON, "delivered", 1, delay=step(timedelta(days=30)))
    seconds = look(database, NOON, NOON + timedelta(hours=1))["delivery_seconds"]
    assert seconds["messages"] == 100
    assert 2 < seconds["p50"] < 5
    assert seconds["p90"] == 5
    assert 60 < seconds["p95"] < 120
    assert seconds["p99"] == 120


def test_where_nothing_happened_there_is_nothing(database: Database) -> None:
    found = look(database, NOON, NOON + timedelta(days=1))
    assert found["totals"] == {"counts": {}, "costs": [], "parts": 0}
    assert found["delivery_seconds"] == {"messages": 0, "p50": None, "p90": None, "p95": None, "p99": None}


def test_by_itself_it_shows_the_last_seven_days(database: Database) -> None:
    now = datetime.now(UTC)
    count(database, now, "accepted")
    count(database, now - timedelta(days=8), "accepted")
    found = stats(database, NAIROBI)
    assert len(found["items"]) == 7
    assert found["totals"]["counts"] == {"accepted": 1}
    assert found["items"][-1]["counts"] == {"accepted": 1}


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Africa/Cairo", "America/Sao_Paulo", "Pacific/Chatham"])
def test_the_days_of_every_zone_follow_one_another(database: Database, zone: str) -> None:
    begin = datetime(2026, 4, 1, tzinfo=UTC)
    for hour in range(48):
        count(database, begin + timedelta(hours=hour), "accepted")
    found = look(database, begin, begin + timedelta(days=60), zone=zone)
    starts = [one["at"] for one in found["items"]]
    assert starts == sorted(set(starts))
    assert sum(one["counts"].get("accepted", 0) for one in found["items"]) == 48


@pytest.mark.parametrize(
    ("since", "until", "bucket"),
    [
        (NOON, NOON, "day"),
        (NOON, NOON - timedelta(days=1), "day"),
        (NOON - timedelta(days=34), NOON, "hour"),
        (NOON - timedelta(days=900), NOON, "day"),
    ],
)
def test_a_time_that_cannot_be_shown_is_refused(
    database: Database, since: datetime, until: datetime, bucket: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        look(database, since, until, bucket)
    assert (caught.value.code, caught.value.field) == ("invalid_time", "since")
