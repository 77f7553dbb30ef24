"""The worker, or the web process, that stops (SIGSTOP) when it comes to a chosen point, for a test to kill there.

    python -m tests.crash.freezing POINT MARKER                     the worker
    gunicorn 'tests.crash.freezing:create_app("POINT", "MARKER")'   the web process

MARKER is a file that says that the point was reached: it holds the process id. Only the first time counts:
a process that is told to go on (SIGCONT) goes on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from flask import Flask

import app
from messaging.batches import import_pace, importer
from messaging.callbacks import received
from messaging.messages import accept, idempotency
from messaging.operations import health, sweep
from messaging.sending import claim, pauses, record, start_post
from messaging.sending.record_writes import RecordWrites
from messaging.storage.database import Database
from utils.sms_utils import ProviderClient
from worker import process

SETTLE_SECONDS = 0.5
# Held by the thread that writes, if one does, and by the one that stops the process.
WRITING = threading.RLock()


class Point(NamedTuple):
    """Where it stops: before or after the call of `owner.name`."""

    owner: Any
    name: str
    is_after: bool = False


POINTS = {
    "before_claim": Point(claim, "claim_due"),
    "in_the_claim_before_its_commit": Point(claim, "_write_attempts", is_after=True),
    "in_the_mark_before_its_commit": Point(start_post, "_mark", is_after=True),
    "after_claim": Point(start_post, "begin_posting"),
    "before_the_bytes_leave": Point(ProviderClient, "send_texts"),
    "after_answer": Point(record, "record_answer"),
    "in_the_record_before_its_commit": Point(RecordWrites, "execute", is_after=True),
    "after_record": Point(record, "record_answer", is_after=True),
    "before_reports_are_applied": Point(received, "_apply_group"),
    "in_a_group_of_reports_before_its_commit": Point(received, "apply_in_halves", is_after=True),
    "after_a_group_of_reports": Point(received, "_apply_group", is_after=True),
    "in_the_acceptance_before_its_commit": Point(idempotency, "finish", is_after=True),
    "after_acceptance": Point(accept, "accept", is_after=True),
    "in_the_middle_of_an_import": Point(importer, "_write_chunk", is_after=True),
}


def freeze_at(point: str, marker: Path) -> None:
    owner, name, is_after = POINTS[point]
    original: Callable[..., Any] = getattr(owner, name)

    @wraps(original)
    def stopping(*arguments: Any, **options: Any) -> Any:
        if not is_after:
            _stop_once(marker)
        result = original(*arguments, **options)
        if is_after:
            _stop_once(marker)
        return result

    setattr(owner, name, stopping)


def _stop_once(marker: Path) -> None:
    try:
        with marker.open("x") as reached:
            reached.write(str(os.getpid()))
    except FileExistsError:
        return
    with WRITING:
        os.kill(os.getpid(), signal.SIGSTOP)
        # The stop may reach another thread first, and then this one a moment later.
        time.sleep(SETTLE_SECONDS)


def stop_between_writes() -> None:
    """SQLite has one writer for all processes: one that stops must not hold the books in another of its threads."""
    original = Database.write_lock

    @contextmanager
    def noted(database: Database) -> Iterator[None]:
        with WRITING if database.is_sqlite else nullcontext(), original(database):
            yield

    setattr(Database, "write_lock", noted)  # noqa: B010


def only_send() -> None:
    """Without heartbeat, sweep and probe: a process that stops must not hold the books in another thread."""
    for owner, name in ((health, "beat"), (sweep, "sweep"), (pauses, "probe")):
        setattr(owner, name, lambda *_: None)


def create_app(point: str, marker: str) -> Flask:
    stop_between_writes()
    freeze_at(point, Path(marker))
    return app.create_app()


def import_slowly() -> None:
    """So that a small file has a middle."""
    for name in ("POSTGRESQL_CHUNK", "SMALLEST_CHUNK", "SHARED_CHUNK", "ALONE_CHUNK"):
        setattr(import_pace, name, 20)


if __name__ == "__main__":
    only_send()
    import_slowly()
    stop_between_writes()
    freeze_at(sys.argv[1], Path(sys.argv[2]))
    sys.exit(process.main())
