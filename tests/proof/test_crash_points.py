"""The crash points that CI has time for; `make proof` runs all of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.crash.scene import needs_linux
from tests.support.databases import KINDS
from utils.setting_types import REPOSITORY

pytestmark = [pytest.mark.processes, needs_linux]

TIMEOUT_SECONDS = 900
SHARES = {"sqlite": 1, "postgresql": 3}


def proof(*arguments: str) -> str:
    """In a process of its own: it forks thousands of times, which one with threads must not."""
    command = [sys.executable, "-m", "tests.proof", *arguments]
    ended = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("store", KINDS)
def test_no_promise_is_broken_wherever_the_process_ends(store: str, told: Callable[[str], None]) -> None:
    told(proof("--store", store, "--share", str(SHARES[store])))
