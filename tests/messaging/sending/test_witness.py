from __future__ import annotations

import fcntl
import logging
import os
import stat
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from messaging.sending import witness as witnesses
from messaging.sending.claim import Claim
from messaging.sending.sender import MessageSender
from messaging.sending.start_post import Posting
from messaging.sending.triggers import TriggerSender
from messaging.sending.witness import Record, Witness, digest_of_text, files_in, read_records
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.identity import Identity, require_identity
from tests.support.delivery import count, every, live_settings, phones, queue, statuses_of
from tests.support.fake_provider import FakeProvider
from utils.errors import ServiceError, WitnessUnwritable
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
IDENTITY = Identity("0" * 32, bytes(32))
TIMEOUT_SECONDS = 15.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "witness"


@pytest.fixture
def at_settings(database_url: str, fake_at: FakeProvider, folder: Path) -> Settings:
    return live_settings(database_url, fake_at.url, witness_dir=str(folder), worker_concurrency=1)


@pytest.fixture
def sender(at_settings: Settings, database: Database, client: ProviderClient) -> MessageSender:
    return MessageSender(at_settings, database, client)


@pytest.fixture
def witness(tmp_path: Path, folder: Path) -> Witness:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/sms.db", witness_dir=str(folder))
    return Witness(settings, Database(settings.sqlalchemy_url))


def identity_of(database: Database) -> Identity:
    with database.write() as connection:
        return require_identity(connection, wall_clock(connection))


def records_of(folder: Path, identity: Identity = IDENTITY) -> list[Record]:
    return list(read_records(folder, identity.database_id, LONG_AGO))


def posting(number: int, recipients: int = 1) -> Posting:
    people = {one: number * 1000 + place for place, one in enumerate(phones(recipients))}
    claim = Claim(number, "Hello", "ACME", None, people, urgent=True, token=f"{number:032x}")
    return Posting(claim, datetime.now(UTC), 0.0, IDENTITY)


def test_what_leaves_is_written_down_before_its_bytes_leave(
    database: Database, fake_at: FakeProvider, sender: MessageSender, folder: Path
) -> None:
    ids = queue(database, *phones(2), text="Hello", sender_id="ACME")
    fake_at.hold.clear()
    thread = threading.Thread(target=sender.run_until_idle, daemon=True)
    thread.start()
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    identity = identity_of(database)
    (found,) = records_of(folder, identity)
    (attempt,) = every(database, tables.attempts)
    fake_at.hold.set()
    thread.join()
    assert (found.attempt_id, found.token) == (attempt.id, attempt.token)
    assert (found.posting_at, found.is_trigger) == (attempt.posting_at, False)
    assert found.message_ids == ids
    assert found.recipients == [identity.digest(one) for one in phones(2)]
    assert found.text == digest_of_text(identity, "ACME", "Hello")


def test_a_trigger_writes_the_same(
    database: Database, at_settings: Settings, client: ProviderClient, folder: Path
) -> None:
    TriggerSender(at_settings, database, client).send_now("Hello", phones(1), None)
    (found,) = records_of(folder, identity_of(database))
    (attempt,) = every(database, tables.attempts)
    assert (found.token, found.is_trigger) == (attempt.token, True)
    assert found.text == digest_of_text(identity_of(database), None, "Hello")


def test_the_file_holds_no_number_and_no_text_and_is_the_services_alone(
    database: Database, sender: MessageSender, folder: Path
) -> None:
    queue(database, *phones(1), text="Your code is 1234")
    sender.run_until_idle()
    (path,) = files_in(folder)
    content = path.read_bytes()
    assert phones(1)[0].lstrip("+").encode() not in content
    assert b"code" not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_records_of_another_database_are_left_out(witness: Witness, folder: Path) -> None:
    witness.note(posting(1))
    assert records_of(folder, Identity("f" * 32, bytes(32))) == []
    assert len(records_of(folder)) == 1


@pytest.mark.parametrize("kept", [1, 40, -1], ids=["one byte", "a part", "all but its end"])
def test_a_torn_line_is_left_out_and_the_others_are_read(witness: Witness, folder: Path, kept: int) -> None:
    witness.note(posting(1))
    witness.note(posting(2))
    (path,) = files_in(folder)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    assert [one.attempt_id for one in records_of(folder)] == [1]


def test_a_damaged_line_costs_only_itself(witness: Witness, folder: Path) -> None:
    for number in (1, 2, 3):
        witness.note(posting(number))
    (path,) = files_in(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"attempt":2', b'"attempt":9')
    path.write_bytes(b"".join(lines))
    assert [one.attempt_id for one in records_of(folder)] == [1, 3]


def test_a_line_that_could_not_be_written_whole_does_not_spoil_the_next_one(
    witness: Witness, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        write = os.write
        patch.setattr(
            witnesses.os, "write", lambda descriptor, line: write(descriptor, line[: len(line) // 2])
        )
        with pytest.raises(WitnessUnwritable):
            witness.note(posting(1))
    witness.note(posting(2))
    assert [one.attempt_id for one in records_of(folder)] == [2]


def test_each_day_has_a_file_and_those_of_long_ago_go(witness: Witness, folder: Path) -> None:
    folder.mkdir()
    today = datetime.now(UTC).date()
    kept, gone = (f"{today - timedelta(days=days)}-{days:016x}.witness" for days in (14, 15))
    for name in (kept, gone, "not-ours.txt"):
        (folder / name).touch()
    witness.note(posting(1))
    witness._day = date(2020, 1, 1)
    witness.note(posting(2))
    assert files_in(folder)[0].name == kept
    assert len(files_in(folder)) == 3
    assert (folder / "not-ours.txt").exists()
    assert sorted(one.attempt_id for one in records_of(folder)) == [1, 2]


def test_whoever_reads_waits_for_the_line_of_a_turn_that_has_begun(witness: Witness, folder: Path) -> None:
    with witness.turn():
        descriptor = os.open(folder / witnesses.LOCK_FILE, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with witness.turn():
            witness.note(posting(1))
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Each write says ENOSPC, as the kernel itself says it; undone by `undo`."""
    full = pytest.MonkeyPatch()
    full.setattr(witnesses, "_create", lambda *_: os.open("/dev/full", os.O_WRONLY))
    full.setattr(witnesses, "find_problem", lambda _folder: "No space left on device")
    monkeypatch.setattr(witnesses, "TRY_AGAIN_SECONDS", 0.0)
    return full


def test_nothing_leaves_while_the_witness_cannot_be_written_and_all_of_it_afterwards(
    database: Database,
    fake_at: FakeProvider,
    sender: MessageSender,
    full_disk: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue(database, *phones(2), text="Hello")
    queue(database, *phones(2), text="Hello again")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert sender.run_until_idle() == 0
    assert fake_at.posts == []
    assert statuses_of(database) == ["queued"] * 4
    assert {row.state for row in every(database, tables.attempts)} == {"released"}
    assert [one.message for one in caplog.records] == ["nothing is sent: the witness cannot be written"]
    full_disk.undo()
    assert sender.run_until_idle() == 4
    assert statuses_of(database) == ["accepted"] * 4


def test_a_trigger_that_cannot_be_written_down_says_so_and_sends_nothing(
    database: Database,
    fake_at: FakeProvider,
    at_settings: Settings,
    client: ProviderClient,
    full_disk: pytest.MonkeyPatch,
) -> None:
    trigger = TriggerSender(at_settings, database, client)
    for _ in range(2):
        with pytest.raises(WitnessUnwritable, match="No space left on device"):
            trigger.send_now("Hello", phones(1), None, "a key")
    # The first one found it out behind its last check, the second one asked first.
    (row,) = every(database, tables.messages)
    assert (row.status, row.reason) == ("cancelled", "witness_unwritable")
    full_disk.undo()
    assert trigger.send_now("Hello", phones(1), None, "a key").accepted == phones(1)
    assert len(fake_at.posts) == 1


def test_a_folder_that_cannot_be_made_is_named_by_its_trouble(
    database: Database, fake_at: FakeProvider, client: ProviderClient, at_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    settings = at_settings.model_copy(update={"witness_dir": str(tmp_path / "file" / "witness")})
    queue(database, *phones(1))
    assert MessageSender(settings, database, client).run_until_idle() == 0
    with pytest.raises(ServiceError, match="Not a directory"):
        TriggerSender(settings, database, client).send_now("Hello", phones(1), None)
    assert fake_at.posts == []
    assert count(database, tables.messages, tables.messages.c.status == "queued") == 1


def test_where_there_is_room_nothing_is_left_of_the_try(folder: Path) -> None:
    assert witnesses.find_problem(folder) is None
    assert list(folder.iterdir()) == []
