"""How times, money, pages and cursors look in every answer."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Any

from utils.errors import InvalidInput
from utils.money import in_units, parse_money

LARGEST_ID = 2**63 - 1  # BIGINT


def rfc3339(at: datetime | None) -> str | None:
    """`at` is aware UTC, as the database gives it."""
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def money(as_billed: str | None) -> dict[str, str | None] | None:
    """`as_billed`: AT's string. A bare `0` has no currency; a form we cannot read gives None, the row keeps it."""
    read = None if as_billed is None else parse_money(as_billed)
    return None if read is None else {"amount": str(read.amount), "currency": read.currency}


def booked_money(micros: int, currency: str | None) -> dict[str, str | None]:
    return {"amount": in_units(micros), "currency": currency}


def page(items: list[dict[str, Any]], limit: int, by: str = "id") -> dict[str, Any]:
    """`items` are up to `limit` + 1, newest first: the one too many only says that there is a next page.

    `by`: the field of an item that the order follows.
    """
    shown = items[:limit]
    has_more = len(items) > limit
    return {"items": shown, "next_cursor": encode_cursor(shown[-1][by]) if has_more else None}


def decode_cursor(cursor: str | None) -> int | None:
    """The id that the page before ended with. Raises InvalidInput."""
    return None if cursor is None else decode_cursors(cursor, 1)[0]


def decode_cursors(cursor: str, count: int) -> list[int]:
    """The ids that the page before ended with, in each of `count` rows of items. Raises InvalidInput."""
    try:
        decoded = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        last_ids = [int(part) for part in decoded.split(b":")]
    except (UnicodeEncodeError, binascii.Error, ValueError):
        last_ids = []
    if len(last_ids) != count or not all(0 < last_id <= LARGEST_ID for last_id in last_ids):
        raise InvalidInput(
            "This cursor did not come from an earlier page", code="invalid_cursor", field="cursor"
        )
    return last_ids


def encode_cursor(*last_ids: int) -> str:
    return base64.urlsafe_b64encode(":".join(map(str, last_ids)).encode()).decode()
