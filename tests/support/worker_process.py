"""The worker as a process of its own, on a database and a stand-in for AT that the test has."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.real_processes import offline_environment
from tests.support.stack import ROOT

EXIT_SECONDS = 60.0


def worker_environment(database_url: str, provider_url: str, **settings: str) -> dict[str, str]:
    usual = {
        "AT_USERNAME": "sandbox",
        "AT_API_KEY": "test-provider-key",
        "AT_BASE_URL": provider_url,
        "API_KEYS": "test-api-key",
        "WEBHOOK_TOKENS": "test-token",
        "DASHBOARD_PASSWORD": "test-password",
        "SECRET_KEY": "test-secret-key",
        "DATABASE_URL": database_url,
        "AT_TIMEOUT_SECONDS": "20",
        "AT_MAX_REQUESTS_PER_SECOND": "1000",
        "AT_MAX_MESSAGES_PER_SECOND": "100000",
    }
    return offline_environment(**(usual | settings))


class WorkerProcess:
    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._log_path = folder / "worker.log"
        witness = environment["WITNESS_DIR"] or str(folder / "witness")
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                cwd=ROOT,
                env=environment | {"WITNESS_DIR": witness},
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit status."""
        return self._process.wait(EXIT_SECONDS)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
