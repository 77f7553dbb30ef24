"""What the health page shows beside the doctor's findings: pauses, workers by name, and when callbacks came last."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, select

from messaging.messages.pause_names import SENDER_PREFIX
from messaging.operations.counts import LAST_CALLBACK
from messaging.operations.metrics import worker_beats
from messaging.service import Service
from messaging.storage import counters, tables
from utils.json_shapes import rfc3339

# The callbacks in the journal that come to each URL.
KINDS: Final = {
    "twoway": "inbound",
    "delivery-reports": "report",
    "opt-out": "opt_out",
    "subscription": "subscription",
}


def details(service: Service) -> dict[str, list[dict[str, Any]]]:
    database = service.database
    with database.read() as connection:
        return {
            "pauses": _pauses(connection),
            "workers": _workers(connection),
            "urls": _urls(service.settings.callback_urls, counters.read_all(connection)),
        }


def _pauses(connection: Connection) -> list[dict[str, Any]]:
    """`sender_id`: None where everything is paused."""
    rows = connection.execute(select(tables.pauses).order_by(tables.pauses.c.name))
    return [
        {
            "sender_id": row.name.removeprefix(SENDER_PREFIX) if row.name.startswith(SENDER_PREFIX) else None,
            "reason": row.reason,
            "since": rfc3339(row.since),
        }
        for row in rows
    ]


def _workers(connection: Connection) -> list[dict[str, Any]]:
    return [{"name": name, "seen_at": rfc3339(at)} for name, at in sorted(worker_beats(connection).items())]


def _urls(urls: dict[str, str], counted: dict[str, int]) -> list[dict[str, Any]]:
    """`last_at`: as the last sweep saw it, a minute or two old; None where none came."""
    last = {name: counted.get(f"{LAST_CALLBACK}{kind}") for name, kind in KINDS.items()}
    return [
        {"name": name, "url": url, "last_at": None if last[name] is None else _time(last[name])}
        for name, url in urls.items()
    ]


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else rfc3339(datetime.fromtimestamp(seconds, UTC))
