"""The code as it was before its newest migration, out of the history of this repository."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from messaging.storage import revisions
from utils.setting_types import REPOSITORY


def unpack(folder: Path) -> Path:
    """Writes that code into `folder`. Skips where the history is not here: a shallow clone, an archive."""
    commit = _git("rev-parse", "--verify", "--quiet", f"{_commit_of_newest_migration()}^")
    if not commit:
        pytest.skip(
            "the history of the repository is not here (a shallow clone, or no git): no earlier release"
        )
    packed = subprocess.run(
        ["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _commit_of_newest_migration() -> str:
    (path,) = revisions.SCRIPTS.glob(f"versions/{revisions.newest()}_*.py")
    return _git("log", "-1", "--diff-filter=A", "--format=%H", "--", str(path))


def _git(*arguments: str) -> str:
    """What it prints; nothing where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
