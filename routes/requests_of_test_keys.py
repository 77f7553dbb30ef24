"""Requests with a test key are answered by a second app, on the test service: so whatever they ask for, reads
included, they meet test data only."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flask import Flask, request
from werkzeug.wrappers import Response as BaseResponse

from messaging.access.keys import TEST_PREFIX, KeyRing
from messaging.operations.store_of_test_keys import StoreOfTestKeys, settings_of
from messaging.service import Service
from routes.guards import KEY_RING, given_key
from utils.errors import Busy
from utils.logs import is_of_test_key

API_PATH = "/v1/"
# Anyone's, with or without a key.
OPEN = frozenset({"docs"})
TRIGGERS = frozenset({"sms.invoke_bulk_sms", "sms.invoke_twoway_sms"})

# Makes the second app on the test service.
Build = Callable[[Service], Flask]


def prepare_test_keys(app: Flask, service: Service, build: Build) -> None:
    """The second app is made at the first request that needs it."""
    slots = threading.BoundedSemaphore(settings_of(service.settings).web_threads)
    second = _SecondApp(StoreOfTestKeys(service), build, slots)
    ring: KeyRing = app.extensions[KEY_RING]

    def hand_over() -> BaseResponse | None:
        """What is not handed over meets the live guards, which let no test key in."""
        key = given_key() if _is_for_keys() else None
        # The prefix spares a live key the look; whose key it is the ring says.
        if key is None or not key.startswith(TEST_PREFIX):
            return None
        holder = ring.find(key)
        return second.answer() if holder is not None and holder.test else None

    app.before_request(hand_over)


def _is_for_keys() -> bool:
    is_of_api = request.path.startswith(API_PATH) and request.blueprint not in OPEN
    return is_of_api or request.endpoint in TRIGGERS


class _SecondApp:
    """`slots`: a test store that hangs must not take every thread with it."""

    def __init__(self, test_keys: StoreOfTestKeys, build: Build, slots: threading.BoundedSemaphore) -> None:
        self._slots = slots
        self._test_keys = test_keys
        self._build = build
        self._making = threading.Lock()
        self._app: Flask | None = None

    def answer(self) -> BaseResponse:
        """Raises Busy, and whatever keeps the test store from being opened."""
        # Also of what fails before the second app begins.
        is_of_test_key.set(True)
        if not self._slots.acquire(blocking=False):
            raise Busy("As many calls with test keys as fit are under way; try again in a moment")
        try:
            return BaseResponse.from_app(self._made().wsgi_app, request.environ)
        finally:
            self._slots.release()

    def _made(self) -> Flask:
        with self._making:
            if self._app is None:
                self._app = self._build(self._test_keys.open())
            return self._app
