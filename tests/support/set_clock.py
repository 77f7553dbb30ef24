"""A wall clock that a test sets for real processes, while the boot clock goes on as it does."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("set_clock.c")


class SettableClock:
    """`environment`: of the processes that go by it."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None and os.environ.get("REQUIRE_SERVICES") != "1":
            pytest.skip("no C compiler")
        library = folder / "set_clock.so"
        subprocess.run([compiler or "cc", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
        self._file = folder / "clock"
        self.set(hours=0)
        self.environment = {"LD_PRELOAD": str(library), "SET_CLOCK_FILE": str(self._file)}

    def set(self, hours: float) -> None:
        """Ahead of the real clock by so much. Written in place: the processes have the file mapped."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("l", int(hours * 3600)))
