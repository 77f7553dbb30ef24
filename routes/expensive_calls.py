"""Calls that read much: few at a time, none for ever, and none for a caller who has left.

Triggers may hold half of the threads and uploads a quarter (routes.guards, routes.uploads). With an eighth for
these, threads are left for callbacks whatever the holders of keys ask for at the same moment.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from flask import Flask, Response, current_app, request

from messaging.storage.read_limits import limited_reads
from routes.uploads import limit_silence
from utils.errors import Busy

SLOTS = "sms_expensive_slots"
SHARE_OF_THREADS = 8
LONGEST_READ_SECONDS = 20.0


def prepare_expensive_calls(app: Flask, web_threads: int) -> None:
    app.extensions[SLOTS] = threading.BoundedSemaphore(max(1, web_threads // SHARE_OF_THREADS))


@contextmanager
def expensive_read() -> Iterator[None]:
    """For a view that answers with what it has read. Raises Busy, TooSlow."""
    with _slot(), limited_reads(LONGEST_READ_SECONDS, _caller_is_there()):
        yield


def expensive_download(start: Callable[[], Iterator[str]], name: str) -> Response:
    """Streams what `start` returns, as the file `name`, and keeps the slot until the end, or until the caller leaves.

    Raises Busy.

    Each window of rows is a short read of its own, so no read limit is needed beside the slot.
    """
    limit_silence()
    slot = _slot()
    try:
        lines = start()
    except BaseException:
        slot.close()
        raise
    answer = Response(_then_close(lines, slot), mimetype="text/csv")
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    # A HEAD request never starts the lines.
    answer.call_on_close(slot.close)
    return answer


def _slot() -> ExitStack:
    """A slot that is given back once, however often it is closed."""
    slots: Any = current_app.extensions[SLOTS]
    if not slots.acquire(blocking=False):
        raise Busy("As many large reads as fit are under way; try again in a moment")
    slot = ExitStack()
    slot.callback(slots.release)
    return slot


def _then_close(lines: Iterator[str], slot: ExitStack) -> Iterator[str]:
    with slot:
        yield from lines


def _caller_is_there() -> Callable[[], bool]:
    """Asks the connection, where the server is gunicorn; elsewhere only the time limit ends a read."""
    connection: Any = request.environ.get("gunicorn.socket")
    if connection is None:
        return lambda: True
    return lambda: not _has_left(connection)


def _has_left(connection: socket.socket) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    if not poller.poll(0):
        return False
    try:
        # Readable: either the next request, or the end of the line.
        return connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
