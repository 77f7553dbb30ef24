"""How long a command takes: `sms status 1` beside a Python process that only imports Flask, in turn."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from benchmarks.support.processes import CannotMeasure, environment, free_port
from benchmarks.support.results import Result, Spread, Table
from utils.setting_types import REPOSITORY

ROUNDS = 15
STATUS, FLASK = "sms status 1", "import flask"


def measure() -> Result:
    with tempfile.TemporaryDirectory() as folder:
        settings = environment(f"sqlite:///{folder}/sms.db", free_port())
        _run(settings, _sms("migrate"))
        _run(settings, _sms("send", "+254711000001", "Measured"))
        commands = {STATUS: _sms("status", "1"), FLASK: [sys.executable, "-c", "import flask"]}
        rounds = [
            {name: _run(settings, command) for name, command in commands.items()} for _ in range(ROUNDS)
        ]
    seconds = {name: Spread.of([one[name] for one in rounds]) for name in commands}
    ratio = Spread.of([one[STATUS] / one[FLASK] for one in rounds])
    rows = [
        [name, found.as_text(), ratio.as_text() if name == FLASK else ""] for name, found in seconds.items()
    ]
    return Result(
        [Table("A command, from start to exit", ["", "seconds", "status / this"], rows)],
        {"seconds": {name: found.as_json() for name, found in seconds.items()}, "of_flask": ratio.as_json()},
        [f"{ROUNDS} rounds in turn on a new SQLite file; medians, in brackets the lowest and the highest"],
    )


def _sms(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flask", "--app", "app", "sms", *arguments]


def _run(settings: dict[str, str], command: list[str]) -> float:
    """Its seconds. Raises CannotMeasure where it fails."""
    began_at = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"{' '.join(command[1:])} failed: {done.stderr.strip()}")
    return time.perf_counter() - began_at
