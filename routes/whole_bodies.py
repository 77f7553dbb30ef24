"""A body cut short is no body.

When the line closes early, gunicorn ends its stream as if the body were complete, and tells werkzeug that it may
trust that end (`wsgi.input_terminated`). `STOP` without its last two letters would be stored as a text `ST`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from flask import Flask
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import LimitedStream

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def require_whole_bodies(app: Flask) -> None:
    """Whatever reads a body then raises ClientDisconnected, a 400, at the end of one that is not whole."""
    app.wsgi_app = _WholeBodies(app.wsgi_app)  # type: ignore[method-assign]


class _WholeBodies:
    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if "wsgi.input_terminated" in environ:
            length = environ.get("CONTENT_LENGTH")
            stream = environ["wsgi.input"]
            environ["wsgi.input"] = LimitedStream(stream, int(length)) if length else _Chunks(stream)
        return self._app(environ, start_response)


class _Chunks(io.RawIOBase):
    """A body in chunks tells its end itself; here a missing or malformed one becomes the caller's error."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        try:
            found = self._stream.read(len(view))
        except (OSError, ParseException) as error:
            raise ClientDisconnected from error
        view[: len(found)] = found
        return len(found)
