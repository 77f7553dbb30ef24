"""One slash for several in the paths of callbacks: `PUBLIC_URL` ended in one, and a person joined the two.

Werkzeug would answer with a redirect. AT is not known to follow one, and a callback that is not taken is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SLASHES = re.compile(r"/{2,}")
_PREFIX = "/sms/"


def join_slashes(app: Flask) -> None:
    app.wsgi_app = _JoinedSlashes(app.wsgi_app)  # type: ignore[method-assign]


class _JoinedSlashes:
    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if "//" in path and (joined := _SLASHES.sub("/", path)).startswith(_PREFIX):
            environ["PATH_INFO"] = joined
        return self._app(environ, start_response)
