"""The real programs as processes of their own, on free loopback ports, with settings of their own.

What a process does is read from /proc: these benchmarks run on Linux.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.setting_types import REPOSITORY
from utils.settings import Settings, load_settings

API_KEY = "benchmark-api-key-5e0d27"
TOKEN = "benchmark-callback-token-91c4aa"
TIMEOUT_SECONDS = 30.0


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
    """`python -m command…`, stopped at the end: this process and its children only.

    Its witness lies beside the log: in `instance/` it would be taken for that of a service of this machine.
    """
    environment = environment | {"WITNESS_DIR": str(log.parent / "witness")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=REPOSITORY, env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def gunicorn(app: str) -> list[str]:
    """The service's own configuration, whatever app stands in it."""
    return ["gunicorn", "--config", "gunicorn.conf.py", app]


def wait_for(look: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `look` says yes. Raises CannotMeasure with the log's end."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not look():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotMeasure(f"{what} did not happen:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children(process_id: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


def owner_of(connection: socket.socket, process_ids: Sequence[int]) -> int | None:
    """Which process holds the other end of a loopback connection."""
    ends = [f"0100007F:{end[1]:04X}" for end in (connection.getpeername(), connection.getsockname())]
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    name = next((f"socket:[{fields[9]}]" for fields in lines if fields[1:3] == ends), None)
    return next((one for one in process_ids if name in _open_files(one)), None)


def _open_files(process_id: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            found.add(str(descriptor.readlink()))
    return found


def peak_memory_mb(process_id: int) -> float:
    """The largest resident size of one process so far."""
    status = Path(f"/proc/{process_id}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) / 1024


def processor_seconds(process_id: int) -> float:
    """User and system time of one process, all its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
