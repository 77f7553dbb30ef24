"""A file taken in by the real web process and the real worker, from the POST until its batch is whole.

It is to be sent tomorrow, so that nothing of it goes out meanwhile.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.support.contests import Server, serving
from benchmarks.support.processes import (
    API_KEY,
    TIMEOUT_SECONDS,
    CannotMeasure,
    environment,
    free_port,
    peak_memory_mb,
    running,
    wait_for,
)
from benchmarks.support.recipient_files import TEMPLATE, RecipientFile
from benchmarks.support.stores import opened
from messaging import statuses
from messaging.batches.rows import DUPLICATE, MOST_REFUSED_KEPT
from messaging.storage import tables

# BENCHMARK_ROWS=100000 for a look while developing.
MOST_ROWS = int(os.environ.get("BENCHMARK_ROWS", "1000000"))
PIECE_BYTES = 256 * 1024
LOOK_SECONDS = 0.05
# No batch of these sizes takes as long.
LONGEST_SECONDS = 600.0
_BOUNDARY = "benchmark-8f1d2c"
_HEADERS = {
    "Authorization": f"Bearer {API_KEY}",
    "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
}


@dataclass(frozen=True, slots=True)
class Stack:
    url: str
    web: Server
    worker: subprocess.Popen[bytes]

    def worker_memory_mb(self) -> float:
        return peak_memory_mb(self.worker.pid)


@dataclass(frozen=True, slots=True)
class Intake:
    """`answer_seconds`: until the 202, when the file is durable. `seconds`: until all of it is messages."""

    batch_id: int
    answer_seconds: float
    seconds: float


@contextmanager
def running_stack(url: str, folder: Path) -> Iterator[Stack]:
    with ExitStack() as stack:
        web = stack.enter_context(serving("web", "app:create_app()", url, folder))
        log = folder / "worker.log"
        worker = stack.enter_context(running(["worker"], environment(url, free_port()), log))
        wait_for(lambda: _is_ready(web.port), "the worker's start", worker, log)
        yield Stack(url, web, worker)


def _is_ready(port: int) -> bool:
    """Web and worker: it says so only once a worker was seen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    with closing(connection):
        connection.request("GET", "/healthz?worker=1")
        return connection.getresponse().status == 200


def take_in(stack: Stack, file: RecipientFile) -> Intake:
    """Returns when the batch is whole. Raises CannotMeasure where it is not, or not as the file says."""
    started = time.perf_counter()
    batch_id = _upload(stack.web.port, file.path)
    answered = time.perf_counter()
    _wait_until_whole(stack.url, batch_id)
    taken = Intake(batch_id, answered - started, time.perf_counter() - started)
    _require_all_taken(stack.url, batch_id, file)
    return taken


def _upload(port: int, path: Path) -> int:
    """As a browser streams it: a piece at a time. The batch's id."""
    head, tail = _form(path)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_SECONDS)
    with path.open("rb") as file:
        length = len(head) + path.stat().st_size + len(tail)
        pieces = (head, *iter(lambda: file.read(PIECE_BYTES), b""), tail)
        connection.request("POST", "/v1/batches", pieces, _HEADERS | {"Content-Length": str(length)})
        answer = connection.getresponse()
        body = answer.read()
    connection.close()
    if answer.status != 202:
        raise CannotMeasure(f"POST /v1/batches answered {answer.status}: {body[:300]!r}")
    return int(json.loads(body)["id"])


def _form(path: Path) -> tuple[bytes, bytes]:
    send_at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    fields = {"text": TEMPLATE, "send_at": send_at}
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    opening = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
    head = "".join([*parts, opening, "Content-Type: text/csv\r\n\r\n"])
    return head.encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()


def _wait_until_whole(url: str, batch_id: int) -> None:
    status = select(tables.batches.c.status, tables.batches.c.reason).where(tables.batches.c.id == batch_id)
    deadline = time.monotonic() + LONGEST_SECONDS
    with opened(url) as database:
        while True:
            with database.read() as connection:
                found = connection.execute(status).one()
            if found.status == "scheduled":
                return
            if found.status != "receiving" or time.monotonic() > deadline:
                raise CannotMeasure(f"the batch never became whole: {found}")
            time.sleep(LOOK_SECONDS)


def _require_all_taken(url: str, batch_id: int, file: RecipientFile) -> None:
    queued = (tables.messages.c.batch_id == batch_id, tables.messages.c.status == statuses.QUEUED)
    queries = {
        "taken": select(func.count()).select_from(tables.messages).where(*queued),
        "numbers": select(func.count(tables.messages.c.recipient.distinct())).where(*queued),
        "refused": select(func.count())
        .select_from(tables.refused_rows)
        .where(tables.refused_rows.c.batch_id == batch_id, tables.refused_rows.c.code != DUPLICATE),
        "duplicates": select(tables.batches.c.duplicates).where(tables.batches.c.id == batch_id),
    }
    with opened(url) as database, database.read() as connection:
        found = {what: connection.execute(query).scalar_one() for what, query in queries.items()}
    expected = {
        "taken": file.taken,
        "numbers": file.taken,
        "refused": min(file.refused, MOST_REFUSED_KEPT),
        "duplicates": file.duplicates,
    }
    if found != expected:
        raise CannotMeasure(f"of the file's rows {expected} were to be found, but there are {found}")
