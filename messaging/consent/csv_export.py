"""The ledger of opt-outs as a file: what `messaging.consent.csv_import` takes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from messaging.consent.views import all_entries
from messaging.storage.database import Database
from utils.spreadsheets import csv_lines

COLUMNS: Final = (
    *("id", "at", "phone", "action", "scope", "sender_id", "source", "in_force"),
    *("callback_id", "callback_digest", "detail"),
)


def opt_outs_csv(database: Database) -> Iterator[str]:
    """A line at a time, newest first, each entry with its evidence in the journal."""
    rows = ([[_in_words(value) for value in cells_of(entry)]] for entry in all_entries(database))
    # The head is there where no entry is.
    return csv_lines(COLUMNS, chain([[]], rows))


def cells_of(entry: Mapping[str, Any]) -> list[Any]:
    """An entry of the ledger under `COLUMNS`."""
    known = with_evidence(entry)
    return [known[name] for name in COLUMNS]


def with_evidence(entry: Mapping[str, Any]) -> dict[str, Any]:
    evidence = entry["evidence"] or {}
    return {
        **entry,
        "callback_id": evidence.get("callback_id"),
        "callback_digest": evidence.get("digest"),
    }


def _in_words(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
