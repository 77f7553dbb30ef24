"""Who may pass: API keys, callback tokens, and the limit on sends inside a request."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from flask import Flask, current_app, request

from messaging.access.actor import Actor, acting
from messaging.access.key_throttle import KeyThrottle, network_of
from messaging.access.keys import ADMIN, METRICS, SEND, KeyRing
from messaging.access.send_throttle import ADDRESS, SendThrottle
from messaging.callbacks.refused import RefusedCallbacks
from messaging.service import Service
from routes.scopes import LIMITED, scope_of
from routes.service import current_service
from utils.errors import Busy, Forbidden, InvalidInput, Unauthorised
from utils.settings import Settings
from utils.tokens import digest_of

KEY_RING = "sms_key_ring"
KEY_THROTTLE = "sms_key_throttle"
SEND_THROTTLE = "sms_send_throttle"
TRIGGER_SLOTS = "sms_trigger_slots"
REFUSED_CALLBACKS = "sms_refused_callbacks"
# A browser or a link preview that fetches ahead of a click would send a text that nobody asked for.
PREFETCH_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
PREFETCH_WORDS = ("prefetch", "preview", "prerender")

P = ParamSpec("P")
R = TypeVar("R")


def prepare_guards(app: Flask, service: Service, refused: RefusedCallbacks) -> None:
    settings = service.settings
    app.extensions[KEY_RING] = KeyRing(service.database, settings.api_keys)
    app.extensions[KEY_THROTTLE] = KeyThrottle(service.database)
    app.extensions[SEND_THROTTLE] = SendThrottle(service.database, settings.sends_per_minute)
    app.extensions[TRIGGER_SLOTS] = threading.BoundedSemaphore(max(1, settings.web_threads // 2))
    app.extensions[REFUSED_CALLBACKS] = refused


def begin_anonymously() -> None:
    """For `before_request`: a thread serves many requests, and nobody acts before a guard has said who it is."""
    acting.set(None)


def check_api_key() -> None:
    """For `before_request` of `/v1`. Raises Unauthorised, TooManyTries, Forbidden, RateLimited."""
    scope = scope_of(request.endpoint or "", request.method, is_test=current_service().is_test)
    _require(_bearer_key(), scope)
    if request.endpoint in LIMITED:
        limit_sends()


def limit_sends() -> None:
    """One call that asks for texts, of whoever acts and of their address. Offline, where nobody needs a key, nobody is
    counted.

    Raises RateLimited, before a body is read.
    """
    actor = acting.get()
    if actor is not None:
        address = f"{ADDRESS}{network_of(actor.address)}"
        current_app.extensions[SEND_THROTTLE].count(actor.name, address)


def requires_metrics_key(view: Callable[P, R]) -> Callable[P, R]:
    @wraps(view)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        _require(_bearer_key(), METRICS)
        return view(*arguments, **named)

    return guarded


def requires_trigger_key(view: Callable[P, R]) -> Callable[P, R]:
    """The key in the header, or in the query: the GET triggers are typed into a browser."""

    @wraps(view)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        _require(given_key(), SEND)
        limit_sends()
        return view(*arguments, **named)

    return guarded


def requires_webhook_token(view: Callable[P, R]) -> Callable[P, R]:
    """Looks at nothing but the URL: the body of a stranger is not read."""

    @wraps(view)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        settings = current_service().settings
        if not _has_token(request.args.get("token"), settings):
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


def given_key() -> str | None:
    """In the header, or in the query, where a sending trigger may have it."""
    return _bearer_key() or request.args.get("api_key")


def _bearer_key() -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _require(key: str | None, scope: str) -> None:
    """Open only offline, where nothing leaves this machine and there are no keys."""
    ring: KeyRing = current_app.extensions[KEY_RING]
    if current_service().settings.is_offline and ring.is_empty():
        return
    holder = None if key is None else ring.find(key)
    if holder is None:
        if key:
            current_app.extensions[KEY_THROTTLE].count(request.remote_addr)
        raise Unauthorised("A valid API key is required: Authorization: Bearer KEY")
    # Unreachable but by a fault of ours: a test key is handed over before (routes.requests_of_test_keys).
    if holder.test is not current_service().is_test:
        raise Forbidden("A test key is for /v1 and the sending triggers", code="test_key")
    if scope not in holder.scopes:
        raise Forbidden(
            f"This key has no scope {scope!r}, which the call needs; it has {', '.join(sorted(holder.scopes))}",
            code="missing_scope",
        )
    acting.set(Actor(holder.name, request.remote_addr, ADMIN in holder.scopes))


def _has_token(given: str | None, settings: Settings) -> bool:
    """Open only offline, where nothing leaves this machine and nobody has set a token."""
    if not settings.webhook_tokens:
        return settings.is_offline
    return given is not None and _is_one_of(given, settings.webhook_tokens)


def _is_one_of(given: str, valid: tuple[str, ...]) -> bool:
    """All are compared, always: neither the time nor a length tells which one was near."""
    digest = digest_of(given)
    return sum([hmac.compare_digest(digest, digest_of(one)) for one in valid]) > 0
