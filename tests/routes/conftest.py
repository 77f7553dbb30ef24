from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask_openapi.openapi import OpenAPI
from werkzeug.serving import make_server

from app import create_app
from messaging.service import Service
from tests.support.fake_provider import FakeProvider
from tests.support.web import API_KEY, TOKEN, Caller
from utils.settings import Settings

MakeApp = Callable[..., OpenAPI]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    provider = FakeProvider()
    yield provider
    provider.close()


@pytest.fixture
def make_app(database_url: str, provider: FakeProvider, tmp_path: Path) -> Iterator[MakeApp]:
    """`make_app(**settings)`: the app on the test's database and fake provider, keys and tokens set."""
    services: list[Service] = []

    def make(**overrides: object) -> OpenAPI:
        given = {
            "at_username": "sandbox",
            "at_api_key": "provider-key",
            "at_shortcode": "20880",
            "at_base_url": provider.url,
            "api_keys": (API_KEY, "second-key"),
            "webhook_tokens": (TOKEN, "second-token"),
            "database_url": database_url,
            "queue_url": f"sqlite:///{tmp_path}/queue.db",
            "at_max_requests_per_second": 1000,
        }
        app = create_app(Settings.model_validate(given | overrides))
        services.append(app.extensions["sms"])
        return app

    yield make
    for service in services:
        service.callback_receiver.stop()
        service.database.close()


@pytest.fixture
def app(make_app: MakeApp) -> OpenAPI:
    return make_app()


@pytest.fixture
def caller(app: OpenAPI) -> Caller:
    return Caller(app)


@pytest.fixture
def served(app: OpenAPI) -> Iterator[str]:
    """The app on a port of its own; its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
