"""gunicorn.conf.py under the real gunicorn, in front of a tiny app."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_processes import free_port, offline_environment
from utils.setting_types import REPOSITORY

pytestmark = pytest.mark.processes

TIMEOUT_SECONDS = 20
TINY_APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0"), ("X-Request-Id", "request-77")])
    return [b""]
"""
# Left out, where empty would be a value.
NOT_SET = "not set"
PROVIDER = {"AT_BASE_URL": "http://127.0.0.1:1"}


def gunicorn(*arguments: str, **overrides: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "gunicorn", *arguments]
    environment = offline_environment(**overrides)
    if NOT_SET in overrides.values():
        environment = {name: value for name, value in environment.items() if value != NOT_SET}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)


def refusal(*arguments: str, **overrides: str) -> list[str]:
    with gunicorn(*arguments, **overrides) as process:
        _, told = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 1, told
    return [line for line in told.splitlines() if not line.startswith("{")]


def test_wrong_settings_stop_the_start_with_one_line_each_and_no_traceback() -> None:
    lines = refusal("tiny:app", AT_USERNAME="shop", PORT="eighty")
    assert len(lines) == 6
    for name in ("PORT", "AT_API_KEY", "API_KEYS", "WEBHOOK_TOKENS", "DASHBOARD_PASSWORD", "SECRET_KEY"):
        assert [line for line in lines if line.startswith(f"{name} ")], name


def test_started_by_hand_without_an_account_it_refuses_in_one_line() -> None:
    (line,) = refusal("tiny:app", PORT=str(free_port()))
    assert line.startswith("AT_USERNAME is not set")


def test_offline_it_refuses_to_face_a_network() -> None:
    (line,) = refusal("--bind", f"0.0.0.0:{free_port()}", "tiny:app", **PROVIDER)
    assert "bind to 127.0.0.1 only" in line


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    (tmp_path / "tiny.py").write_text(TINY_APP)
    port = free_port()
    process = gunicorn("--pythonpath", str(tmp_path), "tiny:app", PORT=str(port), **PROVIDER)
    with process:
        try:
            yield process, port
        finally:
            process.kill()


def wait_until_served(port: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    pytest.fail("gunicorn did not listen")


def get(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    connection.request("GET", path, headers={"Referer": "http://x/?token=hidden"} | headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_the_access_log_is_json_without_query_or_full_number(
    served: tuple["subprocess.Popen[str]", int],
) -> None:
    process, port = served
    wait_until_served(port)
    assert get(port, "/v1/conversations/+254711000001?token=hidden&api_key=hidden").status == 200
    process.terminate()
    _, told = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    lines = [json.loads(line) for line in told.splitlines()]
    (access,) = (line for line in lines if line["logger"] == "gunicorn.access")
    assert access["message"] == "GET /v1/conversations/…001"
    assert (access["status"], access["request_id"]) == (200, "request-77")
    assert access["address"] == "127.0.0.1"
    assert access["milliseconds"] >= 0
    assert "hidden" not in told
    assert "711000001" not in told
    assert not (REPOSITORY / "gunicorn.ctl").exists()


def test_the_access_log_names_caller_key_and_request_and_never_the_key(tmp_path: Path) -> None:
    port = free_port()
    live = {
        "AT_USERNAME": "clinic",
        "AT_API_KEY": "provider-key-of-the-clinic",
        "API_KEYS": "key-of-the-environment",
        "WEBHOOK_TOKENS": "token-of-the-callbacks",
        "DASHBOARD_PASSWORD": "password-of-the-admin",
        "SECRET_KEY": "secret-of-the-cookies",
        "DATABASE_URL": f"sqlite:///{tmp_path}/sms.db",
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    migrate = [sys.executable, "-m", "flask", "--app", "app", "sms", "migrate"]
    subprocess.run(migrate, cwd=REPOSITORY, env=offline_environment(**live), check=True, capture_output=True)
    process = gunicorn(PORT=str(port), REPLY_TEMPLATE=NOT_SET, **live, **PROVIDER)
    with process:
        try:
            wait_until_served(port)
            headers = {
                "Authorization": "Bearer key-of-the-environment",
                "X-Forwarded-For": "203.0.113.7",
                "X-Request-Id": "4f1c-77aa",
            }
            answered = get(port, "/v1/messages?q=hidden", **headers)
            refused = get(
                port, "/v1/messages", **headers | {"Authorization": "Bearer guessed-key-of-a-stranger"}
            )
        finally:
            process.terminate()
        _, told = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (answered.status, answered.headers["X-Request-Id"]) == (200, "4f1c-77aa")
    assert refused.status == 401
    lines = [json.loads(line) for line in told.splitlines()]
    first, second = (line for line in lines if line["logger"] == "gunicorn.access")
    assert (first["address"], first["actor"], first["request_id"]) == (
        "203.0.113.7",
        "key:environment",
        "4f1c-77aa",
    )
    assert (second["address"], second["status"], "actor" in second) == ("203.0.113.7", 401, False)
    secrets = [live[name] for name in ("AT_API_KEY", "API_KEYS", "WEBHOOK_TOKENS", "SECRET_KEY")]
    assert [one for one in (*secrets, "guessed", "hidden") if one in told] == []
    (notice,) = (line for line in lines if "REPLY_TEMPLATE" in line["message"])
    assert (notice["level"], "which is charged" in notice["message"]) == ("WARNING", True)
