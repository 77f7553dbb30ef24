from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.operations.health import queue_problem
from messaging.storage.database import Database
from messaging.storage.task_queue import create_queue
from simulator.store import Store
from utils import private_files
from utils.settings import Settings


@pytest.fixture(autouse=True)
def generous_umask() -> Iterator[None]:
    before = os.umask(0o000)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()}


def use_database(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS some (id INTEGER)")
        assert set(modes(path.parent)) >= {
            path.name,
            f"{path.name}-wal",
            f"{path.name}-shm",
            f"{path.name}-write-lock",
        }
        assert set(modes(path.parent).values()) == {"0o600"}
    database.close()


def test_the_database_its_log_and_its_lock_are_made_for_the_service_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    use_database(folder / "sms.db")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_files_that_were_open_to_all_are_mended_at_the_next_start(tmp_path: Path) -> None:
    use_database(tmp_path / "sms.db")
    for path in tmp_path.iterdir():
        path.chmod(0o666)
    (tmp_path / "sms.db-write-lock").touch(0o666)
    use_database(tmp_path / "sms.db")


def test_only_our_own_folder_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, shared = tmp_path / "instance", tmp_path / "shared"
    monkeypatch.setattr(private_files, "OWN_FOLDER", own)
    for folder in (own, shared):
        folder.mkdir(mode=0o777)
        private_files.make_private_folder(folder)
    assert modes(tmp_path) == {"instance": "0o700", "shared": "0o777"}


def test_the_queue_and_the_simulators_phones_are_private_too(tmp_path: Path) -> None:
    (tmp_path / "queue.db").touch(0o666)
    create_queue(Settings(queue_url=f"sqlite:///{tmp_path}/queue.db"))
    store = Store(tmp_path / "simulator.db")
    assert set(modes(tmp_path).values()) == {"0o600"}
    store.close()


def test_a_look_at_the_queue_makes_no_file_that_is_open_to_all(tmp_path: Path) -> None:
    assert queue_problem(f"sqlite:///{tmp_path}/queue.db") is None
    assert modes(tmp_path) == {"queue.db": "0o600"}


def test_what_another_user_may_open_is_found(tmp_path: Path) -> None:
    for name in ("sms.db", "sms.db-wal", "sms.db-write-lock"):
        (tmp_path / name).touch(0o600)
    assert private_files.find_open(tmp_path / "sms.db") == []
    (tmp_path / "sms.db-write-lock").chmod(0o644)
    assert private_files.find_open(tmp_path / "sms.db") == [tmp_path / "sms.db-write-lock"]
