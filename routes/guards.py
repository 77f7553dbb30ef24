"""Who may pass: API keys, callback tokens, and the limit on sends inside a request."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from flask import Flask, current_app, request

from messaging.callbacks.refused import RefusedCallbacks
from routes.service import current_service
from utils.errors import Busy, Forbidden, InvalidInput, Unauthorised
from utils.settings import Settings

TRIGGER_SLOTS = "sms_trigger_slots"
REFUSED_CALLBACKS = "sms_refused_callbacks"
# A browser or a link preview that fetches ahead of a click would send a text that nobody asked for.
PREFETCH_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
PREFETCH_WORDS = ("prefetch", "preview", "prerender")

P = ParamSpec("P")
R = TypeVar("R")


def prepare_guards(app: Flask, settings: Settings, refused: RefusedCallbacks) -> None:
    app.extensions[TRIGGER_SLOTS] = threading.BoundedSemaphore(max(1, settings.web_threads // 2))
    app.extensions[REFUSED_CALLBACKS] = refused


def check_api_key() -> None:
    """For `before_request`. Raises Unauthorised."""
    _require(_bearer_key())


def requires_api_key(view: Callable[P, R]) -> Callable[P, R]:
    @wraps(view)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        _require(_bearer_key())
        return view(*arguments, **named)

    return guarded


def requires_trigger_key(view: Callable[P, R]) -> Callable[P, R]:
    """The key in the header, or in the query: the GET triggers are typed into a browser."""

    @wraps(view)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        _require(_bearer_key() or request.args.get("api_key"))
        return view(*arguments, **named)

    return guarded


def requires_webhook_token(view: Callable[P, R]) -> Callable[P, R]:
    """Looks at nothing but the URL: the body of a stranger is not read."""

    @wraps(view)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        settings = current_service().settings
        if not _may_pass(request.args.get("token"), settings.webhook_tokens, settings):
            current_app.extensions[REFUSED_CALLBACKS].count()
            raise Forbidden("This callback URL needs a valid token: ?token=…", code="invalid_token")
        return view(*arguments, **named)

    return guarded


def refuses_prefetch(view: Callable[P, R]) -> Callable[P, R]:
    @wraps(view)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        purpose = " ".join(request.headers.get(name, "") for name in PREFETCH_HEADERS).lower()
        if any(word in purpose for word in PREFETCH_WORDS):
            raise InvalidInput("A prefetch does not send", code="prefetch_refused")
        return view(*arguments, **named)

    return guarded


@contextmanager
def trigger_slot() -> Iterator[None]:
    """A trigger holds its thread until AT answers: half of the threads stay free for callbacks. Raises Busy."""
    slots: Any = current_app.extensions[TRIGGER_SLOTS]
    if not slots.acquire(blocking=False):
        raise Busy
    try:
        yield
    finally:
        slots.release()


def _bearer_key() -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _require(key: str | None) -> None:
    settings = current_service().settings
    if not _may_pass(key, settings.api_keys, settings):
        raise Unauthorised("A valid API key is required: Authorization: Bearer KEY")


def _may_pass(given: str | None, valid: tuple[str, ...], settings: Settings) -> bool:
    """Open only offline, where nothing leaves this machine and nobody has set a key."""
    if not valid:
        return settings.is_offline
    return given is not None and _is_one_of(given, valid)


def _is_one_of(given: str, valid: tuple[str, ...]) -> bool:
    """All are compared, always: neither the time nor a length tells which one was near."""
    digest = _digest(given)
    return sum([hmac.compare_digest(digest, _digest(one)) for one in valid]) > 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
