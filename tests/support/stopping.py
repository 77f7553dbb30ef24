"""Processes that stand still (SIGSTOP), as a machine does that is out of memory or moved while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from messaging.storage.database import Database
from tests.support.stack import eventually


def stop_outside_a_write(stop: Callable[[], object], process_id: int, *databases: Database) -> None:
    """`stop` sends the signal. On SQLite whoever stands still in mid-write keeps all others out."""
    with ExitStack() as writes:
        for database in databases:
            writes.enter_context(database.write())
        stop()
        eventually(lambda: state_of(process_id) in "TX", "the process stands still")


def state_of(process_id: int) -> str:
    """Linux's letter: T is stopped; X where there is no such process."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"
