"""A request body that ended early is refused with 400, whatever route reads it.

gunicorn says of every body that it ends where its stream ends (`wsgi.input_terminated`). Werkzeug then takes a closed
connection for the end of the body. Without that word it compares with Content-Length itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from flask import Flask
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def require_whole_bodies(app: Flask) -> None:
    app.wsgi_app = _WholeBodies(app.wsgi_app)  # type: ignore[method-assign]


class _WholeBodies:
    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_TRANSFER_ENCODING"):
            environ["wsgi.input"] = _ChunkedBody(environ["wsgi.input"])
        elif environ.get("CONTENT_LENGTH"):
            environ.pop("wsgi.input_terminated", None)
        return self._app(environ, start_response)


class _ChunkedBody(io.RawIOBase):
    """Malformed or missing chunks raise ClientDisconnected, which is answered with 400."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._stream.read(len(buffer))
        except (ParseException, OSError) as error:
            raise ClientDisconnected from error
        buffer[: len(piece)] = piece
        return len(piece)
