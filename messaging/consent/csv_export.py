"""The ledger of opt-outs as a file: what `messaging.consent.csv_import` takes back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, Final

from messaging.consent.views import all_entries
from messaging.storage.database import Database
from utils.spreadsheets import harmless_cell

COLUMNS: Final = (
    *("id", "at", "phone", "action", "scope", "sender_id", "source", "in_force"),
    *("callback_id", "callback_digest", "detail"),
)
# Without it Excel takes UTF-8 for another encoding.
BYTE_ORDER_MARK = "\ufeff"


def opt_outs_csv(database: Database) -> Iterator[str]:
    """A line at a time, newest first, each entry with its evidence in the journal."""
    yield BYTE_ORDER_MARK + _line(COLUMNS)
    for entry in all_entries(database):
        evidence = entry["evidence"] or {}
        known = entry | {
            "callback_id": evidence.get("callback_id"),
            "callback_digest": evidence.get("digest"),
        }
        yield _line([_cell(known[name]) for name in COLUMNS])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else harmless_cell(str(value))


def _line(cells: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()
