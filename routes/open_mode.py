"""While no key is set, offline, everybody is let in. So only this machine is served, and no page from another site.

A browser on this machine reaches loopback too: for a page of any site, under a name that the site's owner points here.
"""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import urlsplit

from flask import Flask, request

from routes.scopes import READING
from utils.errors import Forbidden
from utils.setting_types import is_loopback
from utils.settings import Settings

# Whoever passes a request on writes these: its peer is not the caller.
PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")


def guard_open_mode(app: Flask, settings: Settings) -> None:
    if is_open(settings):
        app.before_request(refuse_strangers)


def is_open(settings: Settings) -> bool:
    return settings.is_offline and not (settings.api_keys and settings.webhook_tokens)


def refuse_strangers(unset: str = "API_KEYS and WEBHOOK_TOKENS") -> None:
    """For `before_request`; `unset`: what would let others in. Raises Forbidden."""
    if not _is_from_here():
        _refuse(unset, "only this machine is served")
    if not _names_this_machine(request.headers.get("Host", "")):
        _refuse(unset, "only loopback names are served: 127.0.0.1, localhost, [::1]")
    if not _is_from_our_pages():
        _refuse(unset, "no page of another site may call this")


def _is_from_here() -> bool:
    """The peer of the connection itself, whatever a trusted proxy says of it. A UNIX socket is of this machine."""
    if any(name in request.headers for name in PASSED_ON):
        return False
    original = request.environ.get("werkzeug.proxy_fix.orig", {})
    peer = original.get("REMOTE_ADDR", request.environ.get("REMOTE_ADDR"))
    return not peer or is_loopback(peer)


def _names_this_machine(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _is_from_our_pages() -> bool:
    """Pages of this machine, such as the simulator's, may read; only our own may change something."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site == "cross-site":
        return False
    # `Referrer-Policy: no-referrer` makes a page's own forms say `Origin: null`: then the browser's word counts.
    if site in ("same-origin", "none") or origin is None:
        return True
    if origin == f"{request.scheme}://{request.headers.get('Host', '')}":
        return True
    return request.method in READING and _names_this_machine(origin.partition("://")[2])


def _refuse(unset: str, sentence: str) -> NoReturn:
    raise Forbidden(f"Without {unset} {sentence}", code="open_mode")
