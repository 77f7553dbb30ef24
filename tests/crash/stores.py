"""Which store a run of the slow suites takes: both take too long for every run."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from tests.support.databases import has_postgresql


def store_of_this_run() -> str:
    """In turn by the day; `CRASH_STORE=sqlite` or `postgresql` chooses."""
    chosen = os.environ.get("CRASH_STORE")
    if chosen:
        return chosen
    turn = ("sqlite", "postgresql")[datetime.now(UTC).toordinal() % 2]
    return turn if turn == "sqlite" or has_postgresql() else "sqlite"
