"""A file that is whole or absent: written beside its place, made durable, then renamed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.private_files import FILE_MODE

ENDING = ".partial"
# What SQLite puts beside a file that it writes.
BESIDE = ("", "-wal", "-shm", "-journal")


class AlreadyWriting(OSError):
    """Another process writes the same file at this moment."""


@contextmanager
def put_in_place(target: Path) -> Iterator[Path]:
    """The path to write to, for the service's user alone. At the end it replaces `target`.

    After an error it is gone, and `target` is as it was. What a killed process left is taken away by the next
    one that writes the same file. Raises OSError, AlreadyWriting.
    """
    partial = target.with_name(f"{target.name}{ENDING}")
    descriptor = _create_locked(partial)
    try:
        yield partial
        os.fsync(descriptor)
        partial.replace(target)
        _sync_folder(target.parent)
    except BaseException:
        _remove(partial)
        raise
    finally:
        os.close(descriptor)


def _create_locked(path: Path) -> int:
    """A new file, not the old one emptied: a program that outlived a killed process may still write to that."""
    _require_abandoned(path)
    _remove(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    _lock(descriptor)
    return descriptor


def _require_abandoned(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise AlreadyWriting(error.errno, "another process writes this file now") from error


def _remove(path: Path) -> None:
    for ending in BESIDE:
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
