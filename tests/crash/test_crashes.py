"""A hundred SIGKILLs inside one continuous load: nothing is sent twice, nothing is lost, every status is true.

`CRASH_SEED` repeats the choices of a run; the moments are the machine's. `make torture` does it thousands of times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.campaign import run_campaign

KILLS = 100
MOST_SECONDS = 240

pytestmark = pytest.mark.processes


def test_a_hundred_kills_lose_nothing_and_send_nothing_twice(
    store: str, tmp_path: Path, told: Callable[[str], None]
) -> None:
    seed = int(os.environ.get("CRASH_SEED", random.SystemRandom().randrange(10**9)))

    verdict = run_campaign(store, tmp_path, kills=KILLS, most_seconds=MOST_SECONDS, seed=seed)

    told("\n".join((f"crash suite on {store}, seed {seed}", *verdict.lines())))
    assert verdict.problems == []
    assert sum(verdict.kills.values()) >= KILLS
    assert verdict.counts["reports adopted"] > 0
