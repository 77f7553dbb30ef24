"""Database files hold numbers and texts, and whoever can open one can hold its lock: they are the service's alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from utils.setting_types import REPOSITORY

FILE_MODE = 0o600
FOLDER_MODE = 0o700
# SQLite gives its log and its index the mode of the database; those of an older start are mended.
BESIDE = ("", "-wal", "-shm", "-journal", "-write-lock")
OWN_FOLDER = REPOSITORY / "instance"


def make_private_folder(folder: Path) -> None:
    """Only our own is mended: a database may also lie in a folder such as /tmp, which is everybody's."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if folder == OWN_FOLDER:
        _mend(folder, FOLDER_MODE)


def make_private(path: Path) -> None:
    """Creates the file where it is missing: made by SQLite it would be open to all for a moment."""
    # Only where it is missing (O_EXCL). To open and close a file frees all locks that this process has on it: then
    # any other process, the last one by its own lights, takes SQLite's log away at its end, and commits are lost.
    with suppress(OSError):  # SQLite itself explains better why it cannot be had
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    for file in _files_of(path):
        _mend(file, FILE_MODE)


def find_open(path: Path) -> list[Path]:
    """What another user of this machine may open."""
    folders = [path.parent] if path.parent == OWN_FOLDER and path.parent.exists() else []
    return [one for one in (*folders, *_files_of(path)) if _is_open(one)]


def _files_of(path: Path) -> Iterator[Path]:
    for ending in BESIDE:
        file = path.with_name(path.name + ending)
        if file.exists():
            yield file


def _mend(path: Path, mode: int) -> None:
    # Another process may take a log away meanwhile; a file of another user is for the doctor to name.
    with suppress(FileNotFoundError, PermissionError):
        if _is_open(path):
            path.chmod(mode)


def _is_open(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
