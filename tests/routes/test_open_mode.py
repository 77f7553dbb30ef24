"""Offline without keys, whoever reaches the service is let in: so it is only reached from this machine's programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests
from flask_openapi.openapi import OpenAPI

from tests.routes.conftest import MakeApp
from tests.support.fake_provider import FakeProvider
from tests.support.real_processes import free_port, offline_environment
from tests.support.stack import eventually
from utils.setting_types import REPOSITORY

OPEN = {"at_username": None, "api_keys": (), "webhook_tokens": ()}
TRIGGER = "/sms/invoke-bulk-sms?phone=254711000001&message=Hello"
SITE = "http://127.0.0.1:8000"
SIMULATOR = "http://127.0.0.1:8001"
OUTSIDE = {"REMOTE_ADDR": "192.0.2.7"}


@pytest.fixture
def open_app(make_app: MakeApp) -> OpenAPI:
    return make_app(**OPEN)


def status(
    app: OpenAPI, method: str, path: str, headers: dict[str, str], peer: dict[str, str] | None = None
) -> int:
    sent = {"Host": "127.0.0.1:8000"} | headers
    return app.test_client().open(path, method=method, headers=sent, environ_base=peer or {}).status_code


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost@evil.com", "[::1"]
)
def test_a_name_that_is_not_this_machines_is_refused(open_app: OpenAPI, host: str) -> None:
    assert status(open_app, "GET", "/v1/messages", {"Host": host}) in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:9", "[::1]", "[::1]:8000"])
def test_the_names_of_this_machine_are_served(open_app: OpenAPI, host: str) -> None:
    assert status(open_app, "GET", "/v1/messages", {"Host": host}) == 200


def test_a_peer_on_the_network_is_refused(open_app: OpenAPI) -> None:
    for path in ("/v1/messages", "/docs", "/healthz", TRIGGER):
        assert status(open_app, "GET", path, {}, OUTSIDE) == 403


@pytest.mark.parametrize("trusted", [(), ("127.0.0.0/8",)])
def test_what_a_proxy_passes_on_is_refused(make_app: MakeApp, trusted: tuple[str, ...]) -> None:
    app = make_app(**OPEN, trusted_proxies=trusted)
    for name in ("X-Forwarded-For", "X-Real-Ip", "Forwarded"):
        assert status(app, "GET", "/v1/messages", {name: "127.0.0.1"}) == 403


def test_a_trusted_proxy_elsewhere_cannot_call_itself_this_machine(make_app: MakeApp) -> None:
    app = make_app(**OPEN, trusted_proxies=("192.0.2.0/24",))
    assert status(app, "GET", "/v1/messages", {"X-Forwarded-For": "127.0.0.1"}, OUTSIDE) == 403


@pytest.mark.parametrize("site", [SITE, SIMULATOR, "https://evil.com", "null"])
def test_an_image_of_another_site_sends_nothing(open_app: OpenAPI, provider: FakeProvider, site: str) -> None:
    assert status(open_app, "GET", TRIGGER, {"Sec-Fetch-Site": "cross-site", "Origin": site}) == 403
    assert provider.posts == []


@pytest.mark.parametrize(
    "origin", ["https://evil.com", "null", SIMULATOR, "http://localhost:8000", "garbage"]
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/batches", "/v1/forwarding/resume", "/sms/twoway"])
def test_a_change_asked_for_by_a_foreign_page_is_refused(open_app: OpenAPI, path: str, origin: str) -> None:
    assert status(open_app, "POST", path, {"Origin": origin}) == 403
    assert status(open_app, "POST", path, {"Origin": origin, "Sec-Fetch-Site": "same-site"}) == 403


def test_our_own_pages_the_simulators_links_and_programs_pass(open_app: OpenAPI) -> None:
    assert status(open_app, "POST", "/sms/twoway", {}) == 200
    assert status(open_app, "POST", "/sms/twoway", {"Origin": SITE, "Sec-Fetch-Site": "same-origin"}) == 200
    assert status(open_app, "POST", "/sms/twoway", {"Origin": "null", "Sec-Fetch-Site": "same-origin"}) == 200
    assert status(open_app, "GET", "/v1/messages", {"Sec-Fetch-Site": "same-site"}) == 200
    assert status(open_app, "GET", "/v1/messages", {"Sec-Fetch-Site": "none"}) == 200


def test_with_keys_and_tokens_the_network_is_served(make_app: MakeApp) -> None:
    assert status(make_app(at_username=None), "GET", "/healthz", {"Host": "sms.example.org"}, OUTSIDE) == 200


def test_a_missing_token_alone_leaves_callbacks_to_this_machine(make_app: MakeApp) -> None:
    app = make_app(at_username=None, webhook_tokens=())
    assert status(app, "POST", "/sms/twoway", {}, OUTSIDE) == 403


@pytest.mark.processes
def test_flask_run_on_every_address_serves_no_other_name(tmp_path: Path) -> None:
    port = free_port()
    environment = offline_environment(
        DATABASE_URL=f"sqlite:///{tmp_path}/open.db",
        QUEUE_URL=f"sqlite:///{tmp_path}/queue.db",
        AT_BASE_URL="http://127.0.0.1:1",
    )
    command = [sys.executable, "-m", "flask", "--app", "app"]
    subprocess.run([*command, "sms", "migrate"], cwd=REPOSITORY, env=environment, check=True, timeout=60)
    serve = [*command, "run", "--host", "0.0.0.0", "--port", str(port)]
    with subprocess.Popen(serve, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: answer_of(port, "localhost") == 200, "flask serves")
            assert answer_of(port, "evil.com") == 403
        finally:
            process.kill()


def answer_of(port: int, host: str) -> int | None:
    try:
        url = f"http://127.0.0.1:{port}/v1/messages"
        return requests.get(url, headers={"Host": host}, timeout=10).status_code
    except requests.ConnectionError:
        return None
