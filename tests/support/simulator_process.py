"""The simulator as a process of its own, with its controls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from tests.support.stack import ROOT, eventually, free_port

TIMEOUT_SECONDS = 10.0


class SimulatorProcess:
    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        self._session.trust_env = False
        command = [sys.executable, "-m", "simulator", "--port", str(port)]
        # A port that nobody listens on: a report would be owed for ever, so there are none.
        command += ["--service-url", f"http://127.0.0.1:{free_port()}", "--database", str(folder / "at.db")]
        with (folder / "simulator.log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        eventually(self._answers, "the simulator answers")

    def _answers(self) -> bool:
        try:
            return self._session.get(f"{self.url}/_simulator/ledger", timeout=5).ok
        except requests.RequestException:
            return False

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._session.close()

    def _control(self, path: str, body: dict[str, Any]) -> None:
        answer = self._session.post(f"{self.url}/_simulator/{path}", json=body, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()

    def reset(self) -> None:
        self._control("reset", {})
        self._control("faults", {"reports": "off"})

    def fault(self, **settings: Any) -> None:
        self._control("faults", settings)

    def _items(self, path: str) -> list[dict[str, Any]]:
        query = {"limit": "100000"}
        answer = self._session.get(f"{self.url}/_simulator/{path}", params=query, timeout=TIMEOUT_SECONDS)
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def ledger(self, recipient: str | None = None) -> list[dict[str, Any]]:
        return [item for item in self._items("ledger") if recipient in (None, item["to"])]

    def posts(self) -> list[dict[str, Any]]:
        """The POSTs that arrived, oldest first, with `recipients`, `result` and `arrived` (seconds)."""
        return self._items("requests")
