"""The simulator's web application. Making it opens the database file; the callback threads start with the server."""

from urllib.parse import urlsplit

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
    """Only this machine, and no page of another site that is open in a browser here."""
    if not is_loopback(request.remote_addr or ""):
        abort(403, "The simulator answers to this machine only.")
    if not is_loopback(host_name(request.headers.get("Host", ""))):
        abort(403, "The simulator answers to loopback names only.")
    if not is_from_own_page():
        abort(403, "Not from another site.")


def host_name(address: str) -> str:
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


def is_from_own_page() -> bool:
    """Programs send neither header. Another page of this machine may read and link, not change."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site == "cross-site":
        return False
    # The page's own forms say ``Origin: null``, because of its referrer policy.
    if site in ("same-origin", "none") or origin is None or origin == request.host_url.rstrip("/"):
        return True
    return request.method in ("GET", "HEAD", "OPTIONS") and is_loopback(host_name(origin.partition("://")[2]))
