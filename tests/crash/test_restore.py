"""A backup is put back while everything is stopped: nobody gets a text twice, and what had not left goes on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import update

from messaging.storage import tables
from tests.crash.scene import Scene, reach, scene
from tests.support.databases import SERVER_URL, opened
from tests.support.stack import API_KEY, SHORTCODE, eventually

pytestmark = pytest.mark.processes

TEXT = "Sixty of these"
PEOPLE = [f"+2547110{number:05d}" for number in range(10_000, 10_060)]
LATER, ASKER, LEAVER, KEYED = (f"+2547110200{number:02d}" for number in (10, 11, 12, 13))
# Slow enough that a copy can be made in the middle.
SLOWLY = {"AT_MAX_RECIPIENTS": "2", "AT_MAX_REQUESTS_PER_SECOND": "3"}


@contextmanager
def half_sent(kind: str, folder: Path) -> Iterator[tuple[Scene, Path, int]]:
    """A copy of the middle of a batch, and how many of its texts had left by then, at least."""
    with scene(kind, folder, SLOWLY) as stage:
        stage.stack.start("worker")
        stage.send(PEOPLE, TEXT)
        eventually(lambda: len(stage.received(TEXT)) >= 20, "a third has left")
        copy = folder / "middle.backup"
        known = len(stage.received(TEXT))
        stage.stack.flask("sms", "backup", str(copy)).check_returncode()
        yield stage, copy, known


def stop(stage: Scene) -> None:
    for name in ("worker", "web"):
        assert stage.stack.stop(name) == 0
    stage.database.close()


def start_until_it_sends(stage: Scene) -> None:
    """Until then a text that is asked for is refused.

    A copy made in the midst of a POST has it open, and its lease lasts longer than the wait for rest.
    """
    stage.expire_leases()
    for name in ("web", "worker"):
        stage.stack.start(name)
    stage.wait_for_web()

    def is_taken() -> bool:
        answer = stage.stack.post("/v1/messages", {"to": LATER, "text": "Afterwards"})
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "recovering"
        return answer.status_code == 202

    eventually(is_taken, "sending goes on")


def assert_nobody_got_it_twice(stage: Scene, known: int) -> None:
    stage.wait_for_rest()
    assert Counter(stage.received(TEXT)) == Counter(PEOPLE)
    assert stage.received("Afterwards") == [LATER]
    found = stage.count_by_status()
    assert found["queued"] == found["sending"] == found["held"] == 0
    # Of four POSTs at most the copy knows that they had begun.
    assert 0 < found["unknown"] <= 60 - known + 8
    stage.assert_audit_is_clean()
    assert '"the database is recovered"' in stage.stack.log("worker") + stage.stack.log("web")


def test_a_file_that_is_put_back_by_hand_sends_nothing_twice(tmp_path: Path) -> None:
    with half_sent("sqlite", tmp_path) as (stage, copy, known):
        stage.wait_for_rest()
        stop(stage)
        for ending in ("-wal", "-shm"):
            (tmp_path / f"sms.db{ending}").unlink(missing_ok=True)
        shutil.copyfile(copy, tmp_path / "sms.db")
        start_until_it_sends(stage)
        assert_nobody_got_it_twice(stage, known)


def trigger(stage: Scene) -> int:
    asked = {"phone": KEYED, "message": "Only once", "idempotency_key": "a key"}
    return stage.stack.get("/sms/invoke-bulk-sms", **asked).status_code


def test_what_happened_after_the_backup_does_not_happen_again(store: str, tmp_path: Path) -> None:
    """Texts that left, a keyed trigger, an answered text, and a STOP."""
    with half_sent(store, tmp_path) as (stage, copy, known), kept_databases() as kept:
        assert trigger(stage) == 200
        for sender, text in ((ASKER, "A question"), (LEAVER, "STOP")):
            stage.stack.control("inbound", {"from": sender, "text": text, "to": SHORTCODE})
        eventually(lambda: len(stage.stack.ledger(ASKER)) == 1, "the question is answered")
        eventually(lambda: len(stage.stack.ledger(LEAVER)) == 1, "the STOP is confirmed")
        stage.wait_for_rest()
        refused = stage.stack.flask("sms", "restore", str(copy))
        assert refused.returncode == 1
        assert "stop all of them first" in refused.stderr
        stop(stage)
        done = stage.stack.flask("sms", "restore", str(copy), "--json")
        assert done.returncode == 0, done.stderr
        kept.append(json.loads(done.stdout)["kept"])
        start_until_it_sends(stage)
        assert trigger(stage) == 409
        stage.send(LEAVER, "You should not get this")
        assert_nobody_got_it_twice(stage, known)
        assert stage.received("Only once") == [KEYED]
        assert stage.received("You should not get this") == []
        assert len(stage.stack.ledger(ASKER)) == len(stage.stack.ledger(LEAVER)) == 1


def upload(stage: Scene) -> int:
    file = "phone,name\n" + "".join(f"{phone},Person {place}\n" for place, phone in enumerate(PEOPLE))
    answer = stage.stack.session.post(
        f"{stage.stack.web_url}/v1/batches",
        data={"text": "Dear {{name}}"},
        files={"file": ("people.csv", file)},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=30,
    )
    assert answer.status_code == 202, answer.text
    return int(answer.json()["id"])


def waiting_importer_is_gone(stage: Scene) -> None:
    """Time runs forward: the copy says that a worker was importing a moment ago."""
    with opened(stage.stack.environment["DATABASE_URL"]) as database, database.write() as connection:
        connection.execute(update(tables.batches).values(importer_seen_at=None))


def test_an_import_that_was_under_way_and_a_reply_that_waited_are_not_sent_twice(
    store: str, tmp_path: Path
) -> None:
    with scene(store, tmp_path) as stage, kept_databases() as kept:
        batch_id = upload(stage)

        def batch() -> Any:
            return stage.stack.get(f"/v1/batches/{batch_id}").json()

        frozen = reach(stage.freeze_worker("in_the_middle_of_an_import"))
        stage.stack.control("inbound", {"from": ASKER, "text": "A question", "to": SHORTCODE})
        eventually(lambda: len(stage.stack.messages_to(ASKER)) == 1, "the reply waits")
        assert (batch()["status"], batch()["total"]) == ("receiving", 20)
        copy = tmp_path / "middle.backup"
        stage.stack.flask("sms", "backup", str(copy)).check_returncode()
        stage.proceed(frozen)
        eventually(lambda: len(stage.stack.ledger()) == len(PEOPLE) + 1, "all have left")
        assert stage.stack.stop("frozen") == stage.stack.stop("web") == 0
        stage.database.close()
        done = stage.stack.flask("sms", "restore", str(copy), "--json")
        assert done.returncode == 0, done.stderr
        kept.append(json.loads(done.stdout)["kept"])
        waiting_importer_is_gone(stage)
        start_until_it_sends(stage)
        eventually(lambda: batch()["status"] == "finished", "the import is over")
        stage.wait_for_rest()
        assert batch()["counts"] == {"unknown": len(PEOPLE)}
        assert Counter(one["to"] for one in stage.stack.ledger()) == Counter([*PEOPLE, ASKER, LATER])
        assert [one["status"] for one in stage.stack.messages_to(ASKER)] == ["unknown"]
        stage.assert_audit_is_clean()


@contextmanager
def kept_databases() -> Iterator[list[str]]:
    """Those that a restore has renamed on the server are dropped at the end."""
    kept: list[str] = []
    yield kept
    for name in (one for one in kept if "/" not in one):
        with psycopg.connect(SERVER_URL, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
