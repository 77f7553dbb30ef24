"""The real thing in a test: web, worker and simulator as processes of their own, on free loopback ports."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.support.databases import make_tables
from tests.support.leaks import find_leaks, texts_of

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "test-api-key-4f1c9a"
TOKEN = "test-callback-token-83bd21"
TIMEOUT_SECONDS = 30.0
SHORTCODE = "20880"
SECRETS = ("AT_API_KEY", "API_KEYS", "WEBHOOK_TOKENS", "DASHBOARD_PASSWORD", "SECRET_KEY")


# Below those that Linux gives to outgoing connections, one of which may take a port before its server starts.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    return next(port for port in iter(lambda: secrets.choice(PORTS), None) if is_free(port))


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def eventually(look: Callable[[], Any], what: str, seconds: float = TIMEOUT_SECONDS) -> Any:
    """The first true answer of `look`; fails with `what` where none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.05)


class Stack:
    """`settings` override the environment of web and worker.

    `callback_retry_seconds`: the simulator's pause before it repeats a callback.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        settings: dict[str, str] | None = None,
        callback_retry_seconds: float = 1.0,
    ) -> None:
        self.folder = folder
        self.web_port, self.simulator_port = free_port(), free_port()
        self.web_url = f"http://127.0.0.1:{self.web_port}"
        self.simulator_url = f"http://127.0.0.1:{self.simulator_port}"
        self.callback_retry_seconds = callback_retry_seconds
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = self._environment(database_url) | (settings or {})
        self.session = requests.Session()
        self.session.trust_env = False

    def _environment(self, database_url: str) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AT_") and name not in ("DATABASE_URL", "QUEUE_URL", "PORT", "BIND")
        }
        return inherited | {
            "AT_USERNAME": "sandbox",
            "AT_API_KEY": "test-provider-key",
            "AT_SHORTCODE": SHORTCODE,
            "AT_BASE_URL": self.simulator_url,
            "API_KEYS": API_KEY,
            "WEBHOOK_TOKENS": TOKEN,
            "DASHBOARD_PASSWORD": "test-password",
            "SECRET_KEY": "test-secret-key",
            "DATABASE_URL": database_url,
            "WITNESS_DIR": str(self.folder / "witness"),
            "PORT": str(self.web_port),
            "AT_MAX_REQUESTS_PER_SECOND": "1000",
            "AT_MAX_MESSAGES_PER_SECOND": "100000",
            "PYTHONUNBUFFERED": "1",
        }

    def commands(self) -> dict[str, list[str]]:
        return {
            "web": ["gunicorn", "--bind", f"127.0.0.1:{self.web_port}", "app:create_app()"],
            "worker": ["worker"],
            "simulator": [
                "simulator",
                *("--port", str(self.simulator_port)),
                *("--service-url", self.web_url),
                *("--token", TOKEN),
                *("--database", str(self.folder / "simulator.db")),
                *("--callback-retry-seconds", str(self.callback_retry_seconds)),
            ],
        }

    def migrate(self) -> None:
        """Of an empty database."""
        make_tables(self.environment["DATABASE_URL"], _migrate)

    def flask(self, *arguments: str, code: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flask", "--app", "app", *arguments]
        return subprocess.run(
            command, cwd=code, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def start(
        self,
        name: str,
        command: list[str] | None = None,
        settings: dict[str, str] | None = None,
        code: Path = ROOT,
    ) -> None:
        """`command`: the module and its arguments, where `name` is not one of `commands` or runs otherwise.

        `settings`: for this process alone. `code`: the folder of another release.
        """
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *(command or self.commands()[name])],
                cwd=code,
                env=self.environment | (settings or {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_all(self) -> None:
        self.migrate()
        self.start_processes()

    def start_processes(self) -> None:
        for name in ("simulator", "web", "worker"):
            self.start(name)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        eventually(lambda: self._answers(f"{self.simulator_url}/_simulator/ledger"), "the simulator answers")
        eventually(lambda: self._answers(f"{self.web_url}/healthz?worker=1"), "web and worker are there")

    def _answers(self, url: str) -> bool:
        try:
            return self.session.get(url, timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the whole process group: gunicorn's master and its workers die together, as in a power cut."""
        os.killpg(self.processes[name].pid, number)

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)
        self.processes[name].wait()
        # gunicorn's master is gone; its worker may hold the port a moment longer.
        ports = {"web": self.web_port, "simulator": self.simulator_port}
        if name in ports:
            eventually(lambda: is_free(ports[name]), f"the port of {name} is free again")

    def stop(self, name: str, seconds: float = 90.0) -> int:
        process = self.processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return process.wait(seconds)

    def close(self) -> None:
        """Whatever a test with processes was about: nothing that no log may hold is in theirs."""
        for name, process in self.processes.items():
            if process.poll() is None:
                self.kill(name)
        self.session.close()
        leaks = find_leaks(self.folder, self._secrets(), texts_of(self.environment["DATABASE_URL"]))
        assert leaks == [], leaks[:5]

    def _secrets(self) -> list[str]:
        return [self.environment[name] for name in SECRETS]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def get(self, path: str, **query: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return self.session.get(f"{self.web_url}{path}", params=query, headers=headers, timeout=30)

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        known = {"Authorization": f"Bearer {API_KEY}"} | headers
        return self.session.post(f"{self.web_url}{path}", json=body, headers=known, timeout=60)

    def callback(self, path: str, fields: dict[str, str], token: str = TOKEN) -> requests.Response:
        return self.session.post(f"{self.web_url}{path}", params={"token": token}, data=fields, timeout=30)

    def control(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.session.post(f"{self.simulator_url}/_simulator/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def ledger(self, phone: str | None = None) -> list[dict[str, Any]]:
        answer = self.session.get(f"{self.simulator_url}/_simulator/ledger", timeout=30)
        items: list[dict[str, Any]] = answer.json()["items"]
        return [item for item in items if phone is None or item["to"] == phone]

    def message(self, message_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/messages/{message_id}").json()
        return found

    def messages_to(self, phone: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.get("/v1/messages", to=phone).json()["items"]
        return items


def _migrate(url: str) -> None:
    Stack(Path(tempfile.gettempdir()), url).flask("sms", "migrate").check_returncode()
