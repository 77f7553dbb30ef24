"""What a test or a benchmark wants to know: the ledger, the POSTs that came, the callbacks still owed."""

import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from .clock import iso_milliseconds
from .store import Store

ARRIVALS_SECONDS = 120

LEDGER = """
SELECT texts.id, texts.number, posts.text, posts.sender, posts.arrived_at, texts.message_id
FROM texts JOIN posts ON posts.id = texts.post_id
WHERE texts.is_received AND texts.id > ?
"""


def ledger_items(store: Store, number: str | None, after: int, limit: int) -> Iterator[dict[str, Any]]:
    """Every text a phone received, oldest first. ``limit`` -1 is no limit."""
    where, parameters = (" AND texts.number = ?", (after, number)) if number else ("", (after,))
    sql = f"{LEDGER}{where} ORDER BY texts.id LIMIT ?"
    for row in store.stream(sql, (*parameters, limit)):
        yield {
            "id": row["id"],
            "to": row["number"],
            "text": row["text"],
            "from": row["sender"],
            "at": iso_milliseconds(row["arrived_at"]),
            "message_id": row["message_id"],
        }


def request_report(store: Store, limit: int, after: int) -> dict[str, Any]:
    """``items``: the last POSTs, oldest first; ``arrived`` in seconds since the epoch for measuring."""
    totals = store.totals()
    rows = store.rows("SELECT * FROM posts WHERE id > ? ORDER BY id DESC LIMIT ?", (after, limit))
    return {
        "posts": totals["posts"],
        "recipients": totals["recipients"],
        "accepted": totals["accepted"],
        "rejected": totals["recipients"] - totals["accepted"],
        "received": totals["received"],
        "per_second": arrivals_per_second(store),
        "items": [describe_post(row) for row in reversed(rows)],
    }


def arrivals_per_second(store: Store) -> list[dict[str, Any]]:
    rows = store.rows(
        "SELECT CAST(arrived_at AS INTEGER) AS second, count(*) AS posts, sum(recipients) AS recipients,"
        " sum(accepted) AS accepted FROM posts WHERE arrived_at > ? GROUP BY second ORDER BY second",
        (time.time() - ARRIVALS_SECONDS,),
    )
    return [dict(row) for row in rows]


def describe_post(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "at": iso_milliseconds(row["arrived_at"]),
        "arrived": row["arrived_at"],
        "username": row["username"],
        "from": row["sender"],
        "text": row["text"],
        "recipients": row["recipients"],
        "accepted": row["accepted"],
        "result": row["result"],
    }


def callback_report(store: Store, limit: int) -> dict[str, Any]:
    """``owed`` counts what the service has not yet answered with 200."""
    totals = store.totals()
    rows = store.rows("SELECT * FROM callbacks ORDER BY due_at LIMIT ?", (limit,))
    return {
        "owed": store.row("SELECT count(*) AS n FROM callbacks")["n"],
        "attempts": totals["callback_attempts"],
        "acknowledged": totals["callbacks_acknowledged"],
        "given_up": totals["callbacks_given_up"],
        "items": [describe_callback(row) for row in rows],
    }


def describe_callback(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "kind": row["kind"],
        "body": row["body"],
        "due_at": iso_milliseconds(row["due_at"]),
        "attempts": row["attempts"],
        "last_result": row["last_result"],
    }
