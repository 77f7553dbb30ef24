"""What each page takes the service with a million messages of the last week, beside the same with a thousand.

In one process, without a network: the view, its statements and its template. The offline app lets everybody in.
"""

from __future__ import annotations

import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import insert, update

from app import create_app
from benchmarks.support.queued import hold_batch
from benchmarks.support.results import Result, Spread, Table
from benchmarks.support.stores import available_kinds, migrated_database, opened, settle_statistics
from messaging import statuses
from messaging.messages import search
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from utils.settings import Settings

FEW, MANY = 1_000, 1_000_000
FIRST = 254_711_000_000
ROUNDS = 9
DAYS = 7
AIM_RATIO, AIM_MS = 3, 100
PAGES = {
    "overview": "/",
    "sends": "/sends",
    "a send": "/sends/1",
    "messages": "/messages",
    "by number": f"/messages?q=%2B{FIRST + 500}",
    "by words": "/messages?q=parcel",
    "by state": "/messages?q=status:failed",
    "a message": "/messages/500",
    "conversations": "/conversations",
    "a person": f"/people/%2B{FIRST + 500}",
    "held": "/held",
    "opt-outs": "/opt-outs",
}


def measure() -> Result:
    measured = {
        kind: {str(count): _measure(kind, count) for count in (FEW, MANY)} for kind in available_kinds()
    }
    return Result(
        [_table(kind, sizes) for kind, sizes in measured.items()],
        {"stores": measured, "aims": {"ratio": AIM_RATIO, "ms": AIM_MS}},
        [
            f"{ROUNDS} requests each, the first one told apart; all messages of the last {DAYS} days, one in 50 failed",
            "every page answered 200",
        ],
    )


def _measure(kind: str, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, migrated_database(kind, Path(temporary)) as url:
        with opened(url) as database:
            _fill(database, count)
        app = create_app(Settings(database_url=url, at_base_url="http://127.0.0.1:1", log_level="ERROR"))
        try:
            return {name: _ask(app.test_client(), path) for name, path in PAGES.items()}
        finally:
            app.extensions["sms"].callback_receiver.stop()
            app.extensions["sms"].database.close()


def _fill(database: Database, count: int) -> None:
    """A batch that was sent: most delivered, some failed, with the counts that a sweep has made of it."""
    held = hold_batch(database, FIRST, count)
    now = utc_now()
    values = {"status": statuses.DELIVERED, "created_at": now - timedelta(hours=1), "finished_at": now}
    with database.write() as connection:
        connection.execute(update(tables.messages).values(**values, reason=None))
        failed = update(tables.messages).where(tables.messages.c.id % 50 == 0)
        connection.execute(failed.values(status=statuses.FAILED, reason="delivery_failed"))
        finished = update(tables.batches).where(tables.batches.c.id == held.batch_id)
        connection.execute(finished.values(status="finished", finished_at=now))
        for hours in range(24 * DAYS):
            hour = (now - timedelta(hours=hours)).replace(minute=0, second=0, microsecond=0)
            row = {
                "hour": hour,
                "reason": "",
                "sender_id": "SHOP",
                "network": "63902",
                "currency": "",
                "delay": 3,
            }
            counts = {"messages": count // (24 * DAYS), "parts": 0, "micros": 0}
            for status in (statuses.ACCEPTED, statuses.DELIVERED):
                connection.execute(insert(tables.hourly_counts).values(**row, **counts, status=status))
    while search.index_new(database):
        pass
    settle_statistics(database)


def _ask(client: FlaskClient, path: str) -> dict[str, float]:
    """Milliseconds: of the first, and the median of the others."""
    took = []
    for _ in range(ROUNDS):
        began_at = time.perf_counter()
        answer = client.get(path)
        took.append((time.perf_counter() - began_at) * 1000)
        assert answer.status_code == 200, (path, answer.status_code)
    return {"first_ms": took[0], "median_ms": Spread.of(took[1:]).median}


def _table(kind: str, sizes: dict[str, Any]) -> Table:
    few, many = sizes[str(FEW)], sizes[str(MANY)]
    rows = [
        [
            name,
            f"{few[name]['median_ms']:.1f}",
            f"{many[name]['median_ms']:.1f}, aim {AIM_MS}",
            f"{many[name]['median_ms'] / few[name]['median_ms']:.1f}, aim {AIM_RATIO}",
            f"{many[name]['first_ms']:.0f}",
        ]
        for name in PAGES
    ]
    columns = [kind, f"{FEW:,}: ms", f"{MANY:,}: ms", "ratio", "first ms"]
    return Table(f"Pages, {kind}", columns, rows)
