"""What `ps` shows of a command while it runs: its name, and neither a number nor a text."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.scene import needs_linux
from tests.support.real_processes import offline_environment
from tests.support.stack import eventually
from utils.setting_types import REPOSITORY

pytestmark = [pytest.mark.processes, needs_linux]

NUMBER, TEXT = "+254711000001", "Your result is ready"
TIMEOUT_SECONDS = 60


@pytest.fixture
def file(empty_sqlite: Path, tmp_path: Path) -> Path:
    path = tmp_path / "sms.db"
    path.write_bytes(empty_sqlite.read_bytes())
    return path


@pytest.mark.parametrize(
    ("arguments", "title"),
    [(["send", NUMBER, TEXT], "sms send"), (["forget", NUMBER, "--yes"], "sms forget")],
    ids=["send", "forget"],
)
def test_a_command_that_waits_shows_its_name_only(file: Path, arguments: list[str], title: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        # A write waits for this one.
        holder.execute("BEGIN IMMEDIATE")
        process = start(file, arguments)
        try:
            eventually(lambda: shown(process).strip() == title, f"ps shows {title!r}")
            held = [shown(process) for _ in range(20) if process.poll() is None]
            assert len(held) == 20
            assert [one for one in held if NUMBER[1:] in one or TEXT in one] == []
        finally:
            holder.execute("ROLLBACK")
            process.kill()
            process.communicate(timeout=TIMEOUT_SECONDS)


def start(file: Path, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app", "sms", *arguments],
        cwd=REPOSITORY,
        env=offline_environment(DATABASE_URL=f"sqlite:///{file}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shown(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ")
