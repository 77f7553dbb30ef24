from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from tests.support.databases import has_postgresql


@pytest.fixture(scope="session")
def store() -> str:
    """One store per run, in turn by the day; `CRASH_STORE=sqlite` or `postgresql` chooses."""
    chosen = os.environ.get("CRASH_STORE")
    if chosen:
        return chosen
    turn = ("sqlite", "postgresql")[datetime.now(UTC).toordinal() % 2]
    return turn if turn == "sqlite" or has_postgresql() else "sqlite"
