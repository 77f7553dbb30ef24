"""Large uploads: few at a time, streamed to a temporary file; and no caller is waited for without end."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakSet

from flask import Flask, current_app, g, request

from utils.errors import Busy

SLOTS = "sms_upload_slots"
LARGEST_UPLOAD_BYTES = 512 * 1024 * 1024
# Each keeps a web thread for as long as its caller's line takes: the others stay free for callbacks.
SHARE_OF_THREADS = 4
# A caller whose line is gone without a word would keep his thread, and his place, until the server restarts.
SILENCE_SECONDS = 60
MULTIPART = "multipart/form-data"
# Connections whose request has no total deadline (routes.web_worker).
UNHURRIED: WeakSet[Any] = WeakSet()


def prepare_uploads(app: Flask, web_threads: int) -> None:
    app.extensions[SLOTS] = threading.BoundedSemaphore(max(1, web_threads // SHARE_OF_THREADS))
    app.teardown_request(end_upload)


def begin_upload() -> None:
    """For `before_request`, behind the check of the key: nothing of the body has been read. Raises Busy."""
    if request.mimetype != MULTIPART:
        return
    slots: Any = current_app.extensions[SLOTS]
    if not slots.acquire(blocking=False):
        raise Busy("As many uploads as fit are under way; try again in a moment")
    g.upload_slots = slots
    request.max_content_length = LARGEST_UPLOAD_BYTES
    limit_silence()


def limit_silence() -> None:
    """For this request gunicorn, which waits for ever, gives up a caller that sends or takes nothing for so long."""
    connection: Any = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(SILENCE_SECONDS)
        UNHURRIED.add(connection)


def end_upload(_error: BaseException | None) -> None:
    connection: Any = request.environ.get("gunicorn.socket")
    if connection is not None:
        UNHURRIED.discard(connection)
    slots = g.pop("upload_slots", None)
    if slots is not None:
        slots.release()
