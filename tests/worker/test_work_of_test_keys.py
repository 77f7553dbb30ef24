"""What goes wrong with test keys stays there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.access import keys
from messaging.service import Service
from tests.support.databases import KINDS, empty_database, opened
from tests.support.stack import Stack, eventually
from utils.settings import Settings
from worker import work_of_test_keys
from worker.work_of_test_keys import WorkOfTestKeys

DEAD = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    settings = {"database_url": database_url, "test_keys_database_url": f"sqlite:///{tmp_path}/tests.db"}
    service = Service(Settings.model_validate(settings))
    yield service
    service.database.close()


def run(work: WorkOfTestKeys, stopping: threading.Event) -> list[threading.Thread]:
    threads = [threading.Thread(target=target) for target in work.targets.values()]
    for thread in threads:
        thread.start()
    return threads


def test_without_a_test_key_no_store_is_made(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_of_test_keys, "FIRST_LOOK_SECONDS", 0.01)
    stopping = threading.Event()
    threads = run(WorkOfTestKeys(service, stopping), stopping)
    stopping.wait(0.3)
    stopping.set()
    for thread in threads:
        thread.join(5)
    assert [thread.is_alive() for thread in threads] == [False] * len(threads)
    assert not (tmp_path / "tests.db").exists()


def test_whatever_fails_is_logged_and_tried_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what nobody has thought of."""
    keys.create(service.database, "trial", ["send"], test=True)
    monkeypatch.setattr(work_of_test_keys, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(work_of_test_keys, "LOOK_SECONDS", 0.01)
    tried = threading.Semaphore(0)

    def fail(*_: object) -> None:
        tried.release()
        raise RuntimeError("+254711000001 broke it")

    monkeypatch.setattr(work_of_test_keys.due, "has_due", fail)
    stopping = threading.Event()
    threads = run(WorkOfTestKeys(service, stopping), stopping)
    assert [tried.acquire(timeout=20) for _ in range(3)] == [True] * 3
    assert all(thread.is_alive() for thread in threads)
    stopping.set()
    for thread in threads:
        thread.join(5)
    (record, *_) = [one for one in caplog.records if one.name == "worker.work_of_test_keys"]
    assert "254711000001" not in str(vars(record))


@pytest.mark.processes
@pytest.mark.parametrize("kind", KINDS)
def test_live_texts_go_out_while_the_store_of_test_keys_is_gone(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        stack = Stack(tmp_path, url, {"TEST_KEYS_DATABASE_URL": DEAD})
        try:
            stack.migrate()
            with opened(url) as database:
                key, _ = keys.create(database, "trial", ["send", "read"], test=True)
            stack.start_processes()
            eventually(lambda: "the work for test keys failed" in stack.log("worker"), "it is told")
            tested = stack.session.get(
                f"{stack.web_url}/v1/messages", headers={"Authorization": f"Bearer {key}"}, timeout=30
            )
            assert tested.status_code == 503
            sent = stack.post("/v1/messages", {"to": "+254711000001", "text": "Live"}).json()["messages"][0]
            eventually(lambda: stack.message(sent["id"])["status"] == "delivered", "the live text arrives")
            assert "outage" not in stack.log("worker") + stack.log("web")
        finally:
            stack.close()
