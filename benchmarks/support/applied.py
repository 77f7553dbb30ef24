"""The worker's part of a delivery report: what is journaled and answered has still to take effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.support.processes import environment, free_port, running, wait_for
from benchmarks.support.stages import wait_until
from messaging.operations import health
from messaging.storage import tables
from messaging.storage.database import Database

_WAITING = select(func.count()).select_from(tables.callbacks).where(tables.RECEIVED)


def count_received(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(_WAITING).scalar_one())


def wait_until_applied(database: Database) -> None:
    """Raises CannotMeasure where the worker does nothing any more."""
    wait_until(lambda: not count_received(database), "the reports' effect", lambda: count_received(database))


@contextmanager
def applying_worker(database: Database, database_url: str, folder: Path) -> Iterator[int]:
    """Its process id. Nothing is queued: all it does is to apply reports."""
    log = folder / "worker.log"
    with running(["worker"], environment(database_url, free_port()), log) as process:
        wait_for(lambda: health.is_worker_alive(database), "the start of the worker", process, log)
        yield process.pid
