from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.secret_files import read_or_make


def test_a_secret_is_made_once_and_is_the_services_alone(tmp_path: Path) -> None:
    path = tmp_path / "inside" / "secret-key"
    first = read_or_make(path)
    assert len(first) == 64
    assert read_or_make(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["secret-key"]


def test_who_starts_together_gets_the_same_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda number: read_or_make(tmp_path / f"{number // 8}"), range(64)))
    assert len(found) == 8
