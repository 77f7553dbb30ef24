"""The command in a process of its own, as cron starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import delete

from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import phones, queue, queue_batch
from tests.support.real_processes import offline_environment
from tests.support.stack import eventually
from utils.setting_types import REPOSITORY

pytestmark = pytest.mark.processes

TIMEOUT_SECONDS = 60
COMMAND = [sys.executable, "-m", "flask", "--app", "app", "sms", "backup"]


def start(database_url: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=REPOSITORY,
        env=offline_environment(DATABASE_URL=database_url, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(database_url: str, *arguments: str) -> tuple[int, str, str]:
    """Its exit code, and what it wrote."""
    process = start(database_url, *arguments)
    output, complaint = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, output, complaint


def test_a_backup_is_one_line_without_a_number_or_a_text(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    queue(database, *phones(2), text="Secret")
    target = tmp_path / "sms.backup"
    code, output, complaint = run(database_url, str(target))
    assert (code, complaint) == (0, "")
    assert output == f"{target}: {target.stat().st_size} bytes, 2 messages, audit ok\n"
    code, output, complaint = run(database_url, "--verify", str(target), "--json")
    assert (code, complaint) == (0, "")
    assert json.loads(output) == {
        "file": str(target),
        "size_bytes": target.stat().st_size,
        "messages": 2,
        "ok": True,
        "problems": {},
    }


def test_contradictions_end_with_1_and_name_nobody(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    queue_batch(database, phones(2), text="Secret")
    with database.write() as connection:
        connection.execute(delete(tables.messages).where(tables.messages.c.recipient == phones(1)[0]))
    code, output, complaint = run(database_url, str(tmp_path / "sms.backup"))
    assert (code, complaint) == (1, "")
    assert output.endswith("bytes, 1 messages, audit: 1 missing_messages\n")


def test_a_damaged_file_ends_with_1_and_one_sentence(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    queue(database, *phones(300))
    target = tmp_path / "sms.backup"
    assert run(database_url, str(target))[0] == 0
    os.truncate(target, target.stat().st_size // 2)
    code, output, complaint = run(database_url, "--verify", str(target))
    assert (code, output) == (1, "")
    (sentence,) = complaint.splitlines()
    assert sentence.startswith("Error: ")


@pytest.mark.services
def test_a_backup_that_is_stopped_leaves_nothing(postgresql_url: str, tmp_path: Path) -> None:
    slow = tmp_path / "bin" / "pg_dump"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 60\n")
    slow.chmod(0o755)
    folder = tmp_path / "backups"
    folder.mkdir()
    path = f"{slow.parent}:{os.environ['PATH']}"
    process = start(postgresql_url, str(folder / "sms.backup"), PATH=path)
    written = tmp_path / "pid"
    eventually(lambda: written.exists() and written.read_text().endswith("\n"), "the program runs")
    assert [file.name for file in folder.iterdir()] == ["sms.backup.partial"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert list(folder.iterdir()) == []
    assert not Path(f"/proc/{written.read_text().strip()}").exists()
