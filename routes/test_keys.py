"""Requests with a test key are answered by a second app, on the test service: so whatever they ask for, reads
included, they meet test data only."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flask import Flask, request
from werkzeug.wrappers import Response as BaseResponse

from messaging.access.keys import TEST_PREFIX, KeyRing
from messaging.operations.test_keys import TestKeys
from messaging.service import Service
from routes.guards import KEY_RING, given_key

API_PATH = "/v1/"
# Anyone's, with or without a key.
OPEN = frozenset({"docs"})
TRIGGERS = frozenset({"sms.invoke_bulk_sms", "sms.invoke_twoway_sms"})

# Makes the second app on the test service.
Build = Callable[[Service], Flask]


def prepare_test_keys(app: Flask, service: Service, build: Build) -> None:
    """The second app is made at the first request that needs it."""
    second = _SecondApp(TestKeys(service), build)
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
    def __init__(self, test_keys: TestKeys, build: Build) -> None:
        self._test_keys = test_keys
        self._build = build
        self._making = threading.Lock()
        self._app: Flask | None = None

    def answer(self) -> BaseResponse:
        return BaseResponse.from_app(self._made().wsgi_app, request.environ)

    def _made(self) -> Flask:
        with self._making:
            if self._app is None:
                self._app = self._build(self._test_keys.open())
            return self._app
