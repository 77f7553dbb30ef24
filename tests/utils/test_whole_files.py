from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from utils.whole_files import AlreadyWriting, put_in_place


class Interrupted(BaseException):
    """Ctrl-C and its like."""


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_appears_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with put_in_place(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert files(tmp_path) == {"file": "whole"}


def test_it_is_open_to_its_user_alone_from_the_first_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with put_in_place(tmp_path / "file") as partial:
            assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_an_interruption_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with suppress(Interrupted), put_in_place(tmp_path / "file") as partial:
        partial.write_text("half")
        partial.with_name(f"{partial.name}-journal").touch()
        raise Interrupted
    assert files(tmp_path) == {"file": "old"}


def test_two_do_not_write_one_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with put_in_place(target) as partial:
        with pytest.raises(AlreadyWriting), put_in_place(target):
            pass
        partial.write_text("first")
    assert files(tmp_path) == {"file": "first"}


def test_a_link_that_somebody_laid_in_the_way_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("of somebody else")
    (tmp_path / "file.partial").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"), put_in_place(tmp_path / "file"):
        pass
    assert other.read_text() == "of somebody else"
