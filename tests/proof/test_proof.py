"""The share of the proof that CI has time for; `make proof` and `make proof-of-proof` run all of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.scene import needs_linux
from tests.proof.faults import FAULTS, MODEL, Fault
from tests.proof.orders import NAMES as PAIRS
from tests.proof.planted import is_found, plant
from tests.proof.scenarios import SCENARIOS
from tests.support.databases import KINDS
from utils.setting_types import REPOSITORY

pytestmark = [pytest.mark.processes, needs_linux]

TIMEOUT_SECONDS = 900
# One point of so many; the commit's hash says which.
SHARES = {"sqlite": 8, "postgresql": 12}
# So that two cores have something to do to the end.
PARTS = 4
QUICKLY_FOUND = "opt-outs are not asked again at the last check"


def proof(module: str, *arguments: str) -> str:
    """In a process of its own: it forks thousands of times, which one with threads must not."""
    command = [sys.executable, "-m", module, *arguments]
    ended = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("store", KINDS)
def test_no_promise_is_broken_wherever_the_process_ends(
    store: str, part: int, told: Callable[[str], None]
) -> None:
    names = [word for one in SCENARIOS[part::PARTS] for word in ("--scenario", one.name)]
    told(proof("tests.proof", "--store", store, "--share", str(SHARES[store]), *names))


@pytest.mark.services
def test_no_promise_is_broken_in_any_order_of_two(told: Callable[[str], None]) -> None:
    told(proof("tests.proof.orders", "--switches", "1"))


def test_no_promise_is_broken_in_any_state_of_the_model(told: Callable[[str], None]) -> None:
    told(proof("tests.proof.model", "--depth", "4"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_fits_the_source_and_has_its_finder(fault: Fault, tmp_path: Path) -> None:
    for edit in fault.edits:
        path = tmp_path / edit.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((REPOSITORY / edit.file).read_bytes())
    plant(fault, tmp_path)
    assert fault.finder in {MODEL, *PAIRS, *(one.name for one in SCENARIOS)}


def test_a_planted_fault_is_found() -> None:
    (fault,) = (one for one in FAULTS if one.name == QUICKLY_FOUND)
    assert is_found(fault)
