"""The real programs as processes of their own, on free loopback ports, with settings of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.setting_types import REPOSITORY
from utils.settings import Settings, load_settings

API_KEY = "benchmark-api-key-5e0d27"
TOKEN = "benchmark-callback-token-91c4aa"
PATIENCE_SECONDS = 30.0


class CannotMeasure(Exception):
    """What went wrong, in words for whoever runs the benchmark: a figure would be a lie."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def environment(database_url: str, port: int, **overrides: str) -> dict[str, str]:
    """Every setting unset but these, whatever `.env` says: a live service's own, with keys and tokens."""
    unset = dict.fromkeys((name.upper() for name in Settings.model_fields), "")
    chosen = {
        "AT_USERNAME": "sandbox",
        "AT_API_KEY": "benchmark-provider-key",
        "AT_BASE_URL": "http://127.0.0.1:9",
        "API_KEYS": API_KEY,
        "WEBHOOK_TOKENS": TOKEN,
        "DASHBOARD_PASSWORD": "benchmark-password",
        "SECRET_KEY": "benchmark-secret-key",
        "DATABASE_URL": database_url,
        "PORT": str(port),
    } | overrides
    settings = load_settings(chosen)
    # gunicorn reads this one by itself, before our configuration, and fails on an empty value.
    return {**os.environ, **unset, **chosen, "WEB_CONCURRENCY": str(settings.web_concurrency)}


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m command…`, stopped at the end: this process and its children only."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=REPOSITORY, env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def gunicorn(app: str) -> list[str]:
    """The service's own configuration, whatever app stands in it."""
    return ["gunicorn", "--config", "gunicorn.conf.py", app]


def wait_for(look: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `look` says yes. Raises CannotMeasure with the log's end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not look():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotMeasure(f"{what} did not happen:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children(process_id: int) -> list[int]:
    listed = Path(f"/proc/{process_id}/task/{process_id}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else []


def peak_memory_mb(process_id: int) -> float | None:
    """The largest resident size of one process so far; None where the system does not tell (only Linux does)."""
    status = Path(f"/proc/{process_id}/status")
    if not status.exists():
        return None
    kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) / 1024
