"""A PostgreSQL server of the test's own, that it may stop, start and let crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.stack import free_port

INSTALLED = Path("/usr/lib/postgresql")


class PostgresqlServer:
    """`mode` of a stop: `fast` ends the sessions in order, `immediate` is a crash.

    `replica_of`: it starts as a copy that follows another one.
    """

    def __init__(self, programs: Path, folder: Path, replica_of: PostgresqlServer | None = None) -> None:
        self._programs = programs
        self._folder = folder
        self._port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        if replica_of is None:
            self._run("initdb", "-U", "postgres", "-A", "trust")
        else:
            of = ("-h", "127.0.0.1", "-p", str(replica_of._port), "-U", "postgres")
            self._run("pg_basebackup", *of, "-R", "-X", "stream", "-c", "fast")
        self.start()

    def promote(self) -> None:
        """It is written to from now on, on a timeline of its own."""
        self._run("pg_ctl", "-w", "promote")

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self._port} -k {self._folder}"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    @property
    def folder(self) -> Path:
        """Of its files; its log lies beside it."""
        return self._folder / "cluster"

    @property
    def is_running(self) -> bool:
        return (self._folder / "cluster" / "postmaster.pid").exists()

    def stop(self, mode: str) -> None:
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to run as root.
        as_postgres = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*as_postgres, str(self._programs / program), "-D", str(self._folder / "cluster")]
        # What the server prints is not kept: a pipe that it holds would never end.
        subprocess.run(
            [*command, *arguments],
            cwd=self._folder,
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def private_postgresql(replica_of: PostgresqlServer | None = None) -> Iterator[PostgresqlServer]:
    """Skips where PostgreSQL is not installed, unless there must be one (`REQUIRE_SERVICES=1`)."""
    programs = _find_programs()
    if programs is None:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            raise AssertionError("PostgreSQL's initdb is not installed")
        pytest.skip("PostgreSQL's initdb is not installed")
    # Not in pytest's folder: the user postgres may not enter it.
    folder = Path(tempfile.mkdtemp(prefix="sms-postgresql-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    server = PostgresqlServer(programs, folder, replica_of)
    try:
        yield server
    finally:
        if server.is_running:
            server.stop("immediate")
        shutil.rmtree(folder)


def _find_programs() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path and shutil.which("pg_ctl"):
        # Where all of its programs are: a machine may have links to a few of them.
        return Path(on_path).resolve().parent
    found = sorted(INSTALLED.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None
