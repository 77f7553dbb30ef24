"""The simulator's web application. Making it opens the database file; the callback threads start with the server."""

from flask import Flask, abort, request

from .config import Config, is_loopback
from .connections import ConnectionCutter
from .controls import controls_bp
from .messaging import messaging_bp
from .page import page_bp
from .state import EXTENSION, Simulator

MAX_BODY_BYTES = 32 * 1024 * 1024


def create_app(config: Config) -> Flask:
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY_BYTES, MAX_FORM_MEMORY_SIZE=MAX_BODY_BYTES)
    app.extensions[EXTENSION] = Simulator.from_config(config)
    app.before_request(refuse_strangers)
    for blueprint in (messaging_bp, controls_bp, page_bp):
        app.register_blueprint(blueprint)
    app.wsgi_app = ConnectionCutter(app.wsgi_app)  # type: ignore[method-assign]
    return app


def refuse_strangers() -> None:
    """A page from elsewhere, open in the same browser, may neither name this server its own nor post to it."""
    host = request.host.rsplit(":", 1)[0]
    if not is_loopback(host):
        abort(403, "The simulator answers to loopback names only.")
    if request.method != "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site":
        abort(403, "Not from another site.")
