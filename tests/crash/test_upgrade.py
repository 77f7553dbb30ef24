"""An upgrade while everything goes on: the earlier release sends, the present one migrates and takes over."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from sqlalchemy import func, select

from messaging.storage import revisions, tables
from messaging.storage.database import Database
from tests.crash.scene import Scene, needs_linux
from tests.support import earlier_release
from tests.support.balancer import Balancer
from tests.support.databases import KINDS, empty_database, opened
from tests.support.stack import API_KEY, Stack, eventually, free_port

pytestmark = [pytest.mark.processes, needs_linux]

PAUSE_SECONDS = 0.1
# A migration that has much to do, on SQLite, where whoever writes waits for it.
LONG_MIGRATION_SECONDS = 1.0


class Sender(threading.Thread):
    """Asks for one text after another, each to a phone of its own; in turn alone, with four others, by the trigger."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__(name=f"sender-{number}")
        self._url, self._number = url, number
        self._ended = threading.Event()
        self.answers: list[int | str] = []
        # By phone, what was accepted for it.
        self.accepted: dict[str, str] = {}

    def run(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            try:
                self._send(len(self.answers))
            except requests.RequestException as error:
                self.answers.append(str(error))

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _send(self, turn: int) -> None:
        # No last digits that choose an outcome at the simulator.
        phones = [f"+2547{self._number}{place}{turn:04d}15" for place in range(5 if turn % 3 == 1 else 1)]
        text = f"Sent by {self._number} in turn {turn}"
        answer = self._trigger(phones[0], text) if turn % 3 == 2 else self._queue(phones, text)
        self.answers.append(answer.status_code)
        if answer.ok:
            self.accepted |= dict.fromkeys(phones, text)

    def _queue(self, phones: list[str], text: str) -> requests.Response:
        body = {"to": phones, "text": text}
        return requests.post(f"{self._url}/v1/messages", json=body, headers=_headers(), timeout=60)

    def _trigger(self, phone: str, text: str) -> requests.Response:
        query = {"phone": phone, "message": text}
        return requests.get(f"{self._url}/sms/invoke-bulk-sms", params=query, headers=_headers(), timeout=60)


def _headers() -> dict[str, str]:
    # As a proxy does it, each request goes to the process that is the right one by then.
    return {"Authorization": f"Bearer {API_KEY}", "Connection": "close"}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier_release.unpack(tmp_path_factory.mktemp("earlier"))


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """Nothing of it runs yet, and the database is empty."""
    with empty_database(request.param, tmp_path) as url, opened(url) as database:
        stack = Stack(tmp_path, url, {"WEB_CONCURRENCY": "1"})
        try:
            yield Scene(stack, database)
        finally:
            stack.close()


@pytest.fixture
def balancer(stage: Scene) -> Iterator[Balancer]:
    """All callers, AT too, come through it."""
    with Balancer(stage.stack.web_port) as found:
        stage.stack.web_url = found.url
        yield found


def is_current(database: Database) -> bool:
    with database.read() as connection:
        return revisions.is_current(connection)


def start_web(stack: Stack, name: str, port: int, code: dict[str, Path]) -> None:
    stack.start(
        name, ["gunicorn", "--bind", f"127.0.0.1:{port}", "app:create_app()"], {"PORT": str(port)}, **code
    )
    url = f"http://127.0.0.1:{port}/readyz"
    eventually(lambda: stack._answers(url), f"{name} answers")


def wait_for_texts(senders: list[Sender], more: int = 4) -> None:
    """Until each of them has asked for some more."""
    wanted = [len(one.answers) + more for one in senders]
    eventually(
        lambda: all(len(one.answers) >= least for one, least in zip(senders, wanted, strict=True)),
        "texts are accepted",
    )


def last_attempt(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.max(tables.attempts.c.id))).scalar_one() or 0


def posts_by(stage: Scene, name: str, after: int = 0) -> int:
    """How many of the process `name` came after that attempt."""
    worker = tables.attempts.c.worker.contains(f":{stage.stack.processes[name].pid}:")
    statement = select(func.count()).where(worker, tables.attempts.c.id > after)
    with stage.database.read() as connection:
        return connection.execute(statement).scalar_one()


def migrate(stage: Scene) -> None:
    if stage.database.is_sqlite:
        with stage.database.write_lock():
            time.sleep(LONG_MIGRATION_SECONDS)
    stage.stack.flask("sms", "migrate").check_returncode()


def test_texts_are_sent_once_and_no_request_fails_while_a_release_takes_over(
    stage: Scene, earlier: Path, balancer: Balancer
) -> None:
    stack, old = stage.stack, {"code": earlier}
    stack.flask("sms", "migrate", **old).check_returncode()
    assert not is_current(stage.database)
    stack.start("simulator")
    stack.start("old-worker", stack.commands()["worker"], **old)
    start_web(stack, "old-web", stack.web_port, old)
    senders = [Sender(balancer.url, number) for number in (1, 2)]
    for one in senders:
        one.start()
    wait_for_texts(senders)

    migrate(stage)
    assert is_current(stage.database)
    migrated_at = last_attempt(stage.database)
    wait_for_texts(senders)
    eventually(lambda: posts_by(stage, "old-worker", migrated_at), "the old worker goes on")

    new_port = free_port()
    stack.start("worker")
    start_web(stack, "web", new_port, {})
    wait_for_texts(senders)
    balancer.target_port = new_port
    wait_for_texts(senders)
    for name in ("old-web", "old-worker"):
        stack.processes[name].terminate()
    assert [stack.stop(name) for name in ("old-web", "old-worker")] == [0, 0]
    wait_for_texts(senders)
    for one in senders:
        one.end()

    stage.wait_for_rest()
    assert {answer for one in senders for answer in one.answers} == {200, 202}
    accepted = {phone: text for one in senders for phone, text in one.accepted.items()}
    received = Counter((item["to"], item["text"]) for item in stack.ledger())
    assert received == Counter(accepted.items())
    assert stage.count_by_status() == Counter(delivered=len(accepted))
    assert posts_by(stage, "worker") > 0
    stage.assert_audit_is_clean()
    stack.start("late-worker", stack.commands()["worker"], **old)
    assert stack.processes["late-worker"].wait(30) != 0
    assert "A newer release has migrated this database" in stack.log("late-worker")


def test_without_the_history_no_earlier_release_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier_release, "REPOSITORY", tmp_path)
    with pytest.raises(pytest.skip.Exception, match="history"):
        earlier_release.unpack(tmp_path)
