from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, update

from messaging.batches import importer, upload
from messaging.conversations import handler_runner, inbound_views, threads
from messaging.messages import accept
from messaging.messages.accept import SendRequest
from messaging.messages.idempotency import SentBeforeRestore
from messaging.operations import audit, doctor, health, recovery, sweep
from messaging.operations.doctor import Finding, examine
from messaging.operations.metrics import Gauges
from messaging.operations.recovery import REASON, Recoverer
from messaging.sending.sender import MessageSender
from messaging.sending.triggers import TriggerSender
from messaging.sending.witness import files_in
from messaging.service import Service
from messaging.storage import rollback, tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.callback_rows import inbound, open_inbox, report
from tests.support.delivery import (
    Clock,
    begin_posting,
    change,
    claim_one,
    count,
    every,
    history,
    in_write,
    live_settings,
    message,
    message_to,
    opt_out,
    phone,
    phones,
    queue,
    statuses_of,
)
from tests.support.fake_provider import FakeProvider
from tests.support.snapshots import Snapshot
from tests.support.stack import eventually
from utils.errors import ProviderUnreachable, Recovering
from utils.json_shapes import rfc3339
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

TIMEOUT_SECONDS = 15.0


@pytest.fixture
def at_settings(database_url: str, fake_at: FakeProvider, tmp_path: Path) -> Settings:
    witness = str(tmp_path / "witness")
    return live_settings(database_url, fake_at.url, witness_dir=witness, worker_concurrency=1)


class Inbox:
    """AT's, empty unless told otherwise."""

    def __init__(self) -> None:
        self.texts: list[dict[str, Any]] = []

    def fetch_inbox(self, last_received_id: int | str = 0) -> list[dict[str, Any]]:
        return [one for one in self.texts if one["id"] > int(last_received_id)]


class Machine:
    """One process after another on one machine: each starts with what the witness holds, and nothing else."""

    def __init__(self, settings: Settings, client: ProviderClient) -> None:
        self.settings, self.client, self.inbox = settings, client, Inbox()
        self._opened: list[Database] = []
        self.start()

    def start(self) -> None:
        self.database = Database(self.settings.sqlalchemy_url)
        self._opened.append(self.database)
        self.sender = MessageSender(self.settings, self.database, self.client)
        self.recoverer = Recoverer(self.settings, self.database, self.inbox)

    def beat(self) -> None:
        found = health.beat(self.database, "a worker")
        if found is not None:
            self.sender.witness.note_beat(found)

    def send(self) -> int:
        return self.sender.run_until_idle()

    def recover(self) -> Any:
        """The recovery that it found and finished."""
        assert self.recoverer.step()
        assert not self.recoverer.step()
        return every(self.database, tables.recoveries)[-1]

    def close(self) -> None:
        for database in self._opened:
            database.close()


@pytest.fixture
def machine(at_settings: Settings, client: ProviderClient, database: Database) -> Iterator[Machine]:
    machine = Machine(at_settings, client)
    machine.recoverer.step()
    yield machine
    machine.close()


def reasons_of(database: Database) -> list[str | None]:
    return [row.reason for row in every(database, tables.messages)]


def sent(fake_at: FakeProvider) -> list[str]:
    return [number for form in fake_at.posts for number in form["to"].split(",")]


@pytest.mark.parametrize("is_started_anew", [True, False], ids=["started anew", "running"])
def test_what_left_after_the_backup_is_unknown_and_not_sent_again(
    database: Database, fake_at: FakeProvider, machine: Machine, is_started_anew: bool
) -> None:
    ids = queue(database, *phones(3))
    before = Snapshot(database)
    assert machine.send() == 3
    before.put_back(database)
    assert statuses_of(database) == ["queued"] * 3
    if is_started_anew:
        machine.start()
    assert machine.send() == 0
    found = machine.recover()
    assert machine.send() == 0
    assert sent(fake_at) == phones(3)
    assert statuses_of(database) == ["unknown"] * 3
    assert reasons_of(database) == [REASON] * 3
    assert history(database, ids[0]) == [("unknown", "recovery")]
    assert (found.reason, found.posts, found.unknown, found.without_row) == (rollback.POST_MISSING, 1, 3, 0)
    assert found.closed_at is not None
    assert audit.audit(database).problems == []


def test_what_had_not_left_is_sent_after_the_recovery(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    queue(database, *phones(2))
    before = Snapshot(database)
    machine.send()
    before.put_back(database)
    queue(database, *phones(2, first=10))
    machine.send()
    machine.recover()
    assert machine.send() == 2
    assert sorted(sent(fake_at)) == sorted([*phones(2), *phones(2, first=10)])


def test_a_claim_of_before_the_backup_whose_post_left_after_it_is_unknown(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    """The token is there, but the attempt says that nothing has left."""
    queue(database, *phones(2))
    fake_at.hold.clear()
    thread = threading.Thread(target=machine.send, daemon=True)
    taken: list[Snapshot] = []
    begin = machine.sender._begin_posting

    def begin_after_backup(one: Any) -> Any:
        taken.append(Snapshot(database))
        return begin(one)

    machine.sender._begin_posting = begin_after_backup  # type: ignore[method-assign]
    thread.start()
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    fake_at.hold.set()
    thread.join()
    taken[0].put_back(database)
    assert [row.state for row in every(database, tables.attempts)] == ["claimed"]
    machine.start()
    machine.send()
    found = machine.recover()
    assert (found.posts, found.unknown) == (1, 2)
    assert [row.state for row in every(database, tables.attempts)] == ["unknown"]
    assert statuses_of(database) == ["unknown"] * 2


def test_a_claim_that_nobody_posted_is_given_back(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    queue(database, phone(1))
    machine.beat()
    claim_one(database)
    before = Snapshot(database)
    machine.beat()
    before.put_back(database)
    machine.start()
    machine.send()
    assert machine.recover().reason == rollback.COUNTER_FELL
    assert machine.send() == 1
    assert sent(fake_at) == [phone(1)]


def test_an_id_that_was_given_again_is_another_text(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    before = Snapshot(database)
    (lost,) = queue(database, phone(1))
    machine.send()
    before.put_back(database)
    (again,) = queue(database, phone(2))
    assert again == lost
    # The clock was set back meanwhile: the hash of the recipient tells all the same.
    change(database, tables.messages, again, created_at=utc_now() - timedelta(hours=1))
    machine.start()
    machine.send()
    found = machine.recover()
    assert (found.unknown, found.without_row) == (0, 1)
    machine.send()
    assert sent(fake_at) == [phone(1), phone(2)]
    assert message(database, again).status == "accepted"


def test_the_same_text_to_the_same_person_asked_for_after_the_restore_is_sent(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    before = Snapshot(database)
    queue(database, phone(1))
    machine.send()
    before.put_back(database)
    queue(database, phone(1))
    machine.start()
    machine.send()
    machine.recover()
    machine.send()
    assert sent(fake_at) == [phone(1)] * 2


def test_an_idle_process_finds_it_by_the_counter_that_its_heartbeats_raised(
    database: Database, machine: Machine
) -> None:
    machine.beat()
    before = Snapshot(database)
    machine.beat()
    before.put_back(database)
    machine.start()
    with pytest.raises(rollback.WentBackwards):
        machine.beat()
    assert machine.recover().reason == rollback.COUNTER_FELL
    machine.beat()
    machine.start()
    machine.beat()
    assert not machine.recoverer.step()


@pytest.mark.services
def test_a_copy_that_is_at_home_elsewhere_is_found_by_whoever_looks_first(
    database: Database, machine: Machine
) -> None:
    if database.is_sqlite:
        pytest.skip("a file has no place")
    machine.beat()
    place = every(database, tables.database_identity)[0].place
    assert len(place.split("/")) == 4
    elsewhere = place.rpartition("/")[0] + "/00000007"
    in_write(
        database,
        lambda connection, _: connection.execute(update(tables.database_identity).values(place=elsewhere)),
    )
    machine.start()
    assert machine.send() == 0
    assert machine.recover().reason == rollback.PLACE_CHANGED
    machine.beat()
    assert every(database, tables.database_identity)[0].place == place


def test_another_database_and_an_empty_folder_are_nothing_to_recover_from(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    queue(database, phone(1))
    machine.send()
    in_write(database, lambda connection, _: connection.execute(tables.database_identity.delete()))
    queue(database, phone(2))
    machine.start()
    assert machine.send() == 1
    for path in files_in(Path(machine.settings.witness_dir)):
        path.unlink()
    queue(database, phone(3))
    machine.start()
    assert machine.send() == 1
    assert count(database, tables.recoveries) == 0


Work = Callable[[Machine], object]
DONE_BY_NOBODY: dict[str, Work] = {
    "a send": lambda machine: accept.accept(
        machine.settings, machine.database, SendRequest([phone(9)], "Hello")
    ),
    "a trigger": lambda machine: TriggerSender(machine.settings, machine.database, machine.client).send_now(
        "Hello", [phone(9)], None
    ),
    "an import": lambda machine: importer.import_next(machine.database, machine.settings, lambda: False),
    "a sweep": lambda machine: sweep.sweep(machine.database, machine.settings),
}


@pytest.fixture
def recovering(database: Database, machine: Machine, tmp_path: Path) -> Machine:
    """With a file that waits to be imported, and a recovery open."""
    path = tmp_path / "people.csv"
    path.write_text(f"phone\n{phone(8)}\n")
    with path.open("rb") as file:
        upload.receive(machine.settings, database, upload.BatchRequest("Hello"), file)
    in_write(database, lambda connection, now: rollback.open_recovery(connection, rollback.RESTORED, now))
    return machine


@pytest.mark.parametrize("name", DONE_BY_NOBODY)
def test_during_a_recovery_it_is_refused(recovering: Machine, fake_at: FakeProvider, name: str) -> None:
    rows = count(recovering.database, tables.messages)
    with pytest.raises(Recovering) as refused:
        DONE_BY_NOBODY[name](recovering)
    assert refused.value.code == "recovering"
    assert count(recovering.database, tables.messages) == rows
    assert fake_at.posts == []


def test_during_a_recovery_nothing_that_was_claimed_before_is_posted(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    queue(database, phone(1))
    (claim,) = machine.sender._claim().claims
    in_write(database, lambda connection, now: rollback.open_recovery(connection, rollback.COUNTER_FELL, now))
    assert machine.sender._wait_for_turn(claim) is None
    machine.recover()
    assert machine.send() == 1
    assert sent(fake_at) == [phone(1)]


def test_an_answer_that_comes_during_the_recovery_settles_its_texts(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    """A replica took over while the POST was under way."""
    queue(database, *phones(2))
    before = Snapshot(database)
    fake_at.hold.clear()
    thread = threading.Thread(target=machine.send, daemon=True)
    thread.start()
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    before.put_back(database)
    # The id of its attempt is given again.
    row = {"state": "released", "worker": "another", "message_count": 0}
    in_write(
        database,
        lambda connection, now: connection.execute(
            insert(tables.attempts).values(**row, claimed_at=now, lease_until=now)
        ),
    )
    other = Machine(machine.settings, machine.client)
    other.send()
    other.recover()
    assert statuses_of(database) == ["unknown"] * 2
    fake_at.hold.set()
    thread.join(TIMEOUT_SECONDS)
    other.close()
    assert statuses_of(database) == ["accepted"] * 2
    assert audit.audit(database).problems == []


def test_an_answer_that_comes_before_the_recovery_waits_for_it(
    database: Database, fake_at: FakeProvider, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    queue(database, *phones(2))
    before = Snapshot(database)
    fake_at.hold.clear()
    thread = threading.Thread(target=machine.send, daemon=True)
    thread.start()
    assert fake_at.arrived.acquire(timeout=TIMEOUT_SECONDS)
    before.put_back(database)
    fake_at.hold.set()
    eventually(lambda: "a write waits for the database" in caplog.text, "there is nothing to record it in")
    assert statuses_of(database) == ["queued"] * 2
    other = Machine(machine.settings, machine.client)
    other.send()
    other.recover()
    thread.join(TIMEOUT_SECONDS)
    other.close()
    assert statuses_of(database) == ["accepted"] * 2
    assert len(fake_at.posts) == 1


def test_the_witness_is_read_after_the_line_of_a_last_check_that_had_begun(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    """A process that stops between the two would else append when everybody has read."""
    queue(database, phone(1))
    machine.beat()
    before = Snapshot(database)
    machine.beat()
    (claim,) = machine.sender._claim().claims
    other = Machine(machine.settings, machine.client)
    waits = threading.Event()
    await_last_checks = other.recoverer._await_last_checks

    def announce() -> None:
        waits.set()
        await_last_checks()

    other.recoverer._await_last_checks = announce  # type: ignore[method-assign]
    with machine.sender.witness.turn():
        posting = begin_posting(machine.database, claim)
        before.put_back(database)
        with pytest.raises(rollback.WentBackwards):
            other.beat()
        reader = threading.Thread(target=other.recoverer.step, daemon=True)
        reader.start()
        assert waits.wait(TIMEOUT_SECONDS)
        reader.join(0.2)
        machine.sender.witness.note(posting)
    reader.join(TIMEOUT_SECONDS)
    other.close()
    assert statuses_of(database) == ["unknown"]


def test_a_report_settles_what_the_recovery_made_unknown(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    queue(database, phone(1))
    before = Snapshot(database)
    machine.send()
    before.put_back(database)
    machine.start()
    machine.send()
    with open_inbox(database, machine.settings) as inbox:
        inbox.receive("report", report("ATXid_1_0", "Success", phone(1)))
    assert statuses_of(database) == ["queued"]
    machine.recover()
    sweep.sweep(machine.database, machine.settings)
    assert message_to(database, phone(1)).status == "delivered"


def test_a_report_that_comes_during_the_recovery_is_not_adopted_by_the_wrong_text(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    """The first text is the only one to this number that is known to have left; the report is the second one's."""
    (first,) = queue(database, phone(1), text="First")
    machine.send()
    change(database, tables.messages, first, status="unknown", provider_message_id=None)
    queue(database, phone(1), text="Second")
    before = Snapshot(database)
    machine.send()
    before.put_back(database)
    machine.start()
    assert machine.send() == 0
    with open_inbox(database, machine.settings) as inbox:
        inbox.receive("report", report("ATXid_2_0", "Success", phone(1)))
    assert statuses_of(database) == ["unknown", "queued"]
    machine.recover()
    sweep.sweep(machine.database, machine.settings)
    assert statuses_of(database) == ["unknown", "unknown"]


def restored(machine: Machine, before: Snapshot) -> None:
    """The backup was put back, the machine was started, and the recovery is over."""
    before.put_back(machine.database)
    machine.start()
    assert machine.send() == 0
    machine.recover()


def test_a_call_whose_texts_left_is_refused_when_it_comes_again_with_its_key(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    before = Snapshot(database)
    request = SendRequest([phone(1)], "Hello")
    accept.accept(machine.settings, database, request, "a key")
    assert machine.send() == 1
    restored(machine, before)
    for _ in range(2):
        with pytest.raises(SentBeforeRestore) as refused:
            accept.accept(machine.settings, machine.database, request, "a key")
        assert refused.value.code == "sent_before_restore"
    accept.accept(machine.settings, machine.database, request, "another key")
    assert machine.send() == 1
    assert sent(fake_at) == [phone(1)] * 2


def test_no_id_that_somebody_was_told_is_given_again(
    database: Database, fake_at: FakeProvider, machine: Machine, tmp_path: Path
) -> None:
    before = Snapshot(database)
    asked = SendRequest(phones(3), "Hello")
    told = accept.accept(machine.settings, database, asked).body
    machine.send()
    restored(machine, before)
    batch_id = upload_file(machine, tmp_path, phones(2))
    import_all(machine)
    again = accept.accept(machine.settings, machine.database, asked).body
    machine.send()
    highest = max(one["id"] for one in told["messages"])
    assert min(row.id for row in every(machine.database, tables.messages)) > highest
    assert min(batch_id, again["batch_id"]) > told["batch_id"]
    assert len({row.id for row in every(machine.database, tables.attempts)}) >= 2


def test_a_trigger_is_refused_likewise(database: Database, fake_at: FakeProvider, machine: Machine) -> None:
    before = Snapshot(database)
    TriggerSender(machine.settings, database, machine.client).send_now("Hello", [phone(1)], None, "a key")
    restored(machine, before)
    triggers = TriggerSender(machine.settings, machine.database, machine.client)
    with pytest.raises(SentBeforeRestore):
        triggers.send_now("Hello", [phone(1)], None, "a key")
    assert triggers.send_now("Hello", [phone(2)], None, "another key").accepted == [phone(2)]
    assert sent(fake_at) == [phone(1), phone(2)]


def test_an_upload_is_refused_likewise(
    database: Database, fake_at: FakeProvider, machine: Machine, tmp_path: Path
) -> None:
    before = Snapshot(database)
    upload_file(machine, tmp_path, phones(2), "a key")
    import_all(machine)
    assert machine.send() == 2
    restored(machine, before)
    with pytest.raises(SentBeforeRestore):
        upload_file(machine, tmp_path, phones(2), "a key")
    assert count(machine.database, tables.batches) == 0


def upload_file(machine: Machine, folder: Path, people: list[str], key: str | None = None) -> int:
    path = folder / "people.csv"
    path.write_text("\n".join(["phone", *people]))
    with path.open("rb") as file:
        taken = upload.receive(machine.settings, machine.database, upload.BatchRequest("Hello"), file, key)
    return int(taken.body["id"])


def import_all(machine: Machine) -> None:
    while importer.import_next(machine.database, machine.settings, lambda: False):
        pass


def test_rows_that_an_import_makes_anew_are_not_sent_again(
    database: Database, fake_at: FakeProvider, machine: Machine, tmp_path: Path
) -> None:
    """The backup is of the middle of the import: none of its rows was there yet."""
    batch_id = upload_file(machine, tmp_path, phones(4))
    before = Snapshot(database)
    import_all(machine)
    # One of them never left.
    opt_out(database, phone(4))
    assert machine.send() == 3
    restored(machine, before)
    import_all(machine)
    assert machine.send() == 1
    assert sorted(sent(fake_at)) == phones(4)
    assert sorted(statuses_of(machine.database)) == ["accepted", "unknown", "unknown", "unknown"]
    assert {row.batch_id for row in every(machine.database, tables.messages)} == {batch_id}
    assert count(machine.database, tables.lost_texts) == 0
    assert audit.audit(machine.database).problems == []


def hear(machine: Machine, text: str, provider_id: str = "an-id") -> None:
    with open_inbox(machine.database, machine.settings) as inbox:
        inbox.receive("inbound", inbound(text, provider_id, phone(1)))


@pytest.mark.parametrize("is_known", [True, False], ids=["the text waits", "the text comes again"])
def test_an_inbound_text_that_was_answered_gets_no_second_reply(
    database: Database, fake_at: FakeProvider, machine: Machine, tmp_path: Path, is_known: bool
) -> None:
    (tmp_path / "replies.py").write_text(HANDLER)
    machine.settings = machine.settings.model_copy(update={"replies_file": str(tmp_path / "replies.py")})
    snapshots = [Snapshot(database)]
    hear(machine, "CODE please")
    snapshots.append(Snapshot(database))
    answer_all(machine)
    assert machine.send() == 1
    restored(machine, snapshots[is_known])
    if not is_known:
        hear(machine, "CODE please")
    answer_all(machine)
    machine.send()
    # What the handler says now is worded otherwise.
    assert len(fake_at.posts) == 1
    assert statuses_of(machine.database) == ["unknown"]
    hear(machine, "CODE please", "another-id")
    answer_all(machine)
    assert machine.send() == 1


HANDLER = """
import itertools
from messaging.reply_handlers import on_keyword

numbers = itertools.count()

@on_keyword("CODE")
def answer(message):
    return f"Your code is {next(numbers)}"
"""


def answer_all(machine: Machine) -> None:
    for job in handler_runner.claim(machine.database, timedelta(seconds=30), 10):
        handler_runner.answer(machine.settings, machine.database, job)


def test_what_a_person_answered_before_the_restore_is_not_sent_again_when_it_is_written_again(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    machine.settings = machine.settings.model_copy(update={"reply_template": ""})
    hear(machine, "When do you open?")
    before = Snapshot(database)
    threads.say(database, phone(1), "At eight", "the key of a form")
    assert machine.send() == 1
    restored(machine, before)
    again = threads.say(machine.database, phone(1), "At eight", "the key of another form").body
    assert again["status"] == "unknown"
    assert machine.send() == 0
    assert statuses_of(machine.database) == ["unknown"]
    # It stood for one text: what is said from now on is new.
    for words in ("At eight", "At nine"):
        assert threads.say(machine.database, phone(1), words).body["status"] == "queued"
    assert machine.send() == 2
    assert audit.audit(machine.database).problems == []


def test_a_lost_row_of_a_file_is_no_answer_of_a_person(
    database: Database, fake_at: FakeProvider, machine: Machine, tmp_path: Path
) -> None:
    machine.settings = machine.settings.model_copy(update={"reply_template": ""})
    hear(machine, "Hello?")
    batch_id = upload_file(machine, tmp_path, [phone(1)])
    before = Snapshot(database)
    import_all(machine)
    assert machine.send() == 1
    restored(machine, before)
    assert threads.say(machine.database, phone(1), "Hello").body["status"] == "queued"
    assert [row.batch_id for row in every(machine.database, tables.lost_texts)] == [batch_id]


def test_during_a_recovery_a_held_reply_is_not_released(database: Database, machine: Machine) -> None:
    hear(machine, "Hello?")
    in_write(database, hold_the_reply)
    in_write(database, lambda connection, now: rollback.open_recovery(connection, rollback.RESTORED, now))
    (before,) = every(database, tables.inbound_messages)
    with pytest.raises(Recovering):
        inbound_views.release(database, before.id)
    assert every(database, tables.inbound_messages) == [before]


def hold_the_reply(connection: Connection, _now: datetime) -> None:
    connection.execute(
        update(tables.inbound_messages).values(reply_outcome="held", held_texts='["At eight"]')
    )


def test_a_stop_of_the_gap_is_fetched_before_anything_is_sent_and_gets_no_reply(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    queue(database, phone(1), phone(2))
    machine.beat()
    before = Snapshot(database)
    machine.beat()
    now = utc_now().isoformat()
    about = {"to": "20880", "date": now}
    machine.inbox.texts = [
        {"id": 7, "from": phone(1), "text": "STOP", **about},
        {"id": 8, "from": phone(3), "text": "Hello?", **about},
    ]
    before.put_back(database)
    machine.start()
    machine.send()
    found = machine.recover()
    assert (found.reason, found.fetched) == (rollback.COUNTER_FELL, 2)
    assert machine.send() == 1
    assert sent(fake_at) == [phone(2)]
    assert {row.reply_outcome for row in every(database, tables.inbound_messages)} == {"late"}
    assert message_to(database, phone(1)).status == "blocked"


class NoInbox:
    def fetch_inbox(self, last_received_id: int | str = 0) -> list[dict[str, Any]]:
        raise ProviderUnreachable(reason="refused")


def test_an_inbox_that_cannot_be_read_is_waited_for_and_then_done_without(
    database: Database, machine: Machine
) -> None:
    in_write(database, lambda connection, now: rollback.open_recovery(connection, rollback.RESTORED, now))
    clock = Clock(machine.database)
    recoverer = Recoverer(machine.settings, machine.database, NoInbox())
    assert recoverer.step()
    assert recoverer.step()
    clock.step(minutes=2)
    assert recoverer.step()
    assert not recoverer.step()
    (found,) = every(database, tables.recoveries)
    assert (found.fetched, found.closed_at is None) == (None, False)


def test_while_the_inbox_cannot_be_read_what_is_due_is_looked_through_once(
    database: Database, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(database, *phones(3))
    in_write(database, lambda connection, now: rollback.open_recovery(connection, rollback.RESTORED, now))
    clock = Clock(machine.database)
    looked: list[int] = []
    hold_all_due = recovery.held.hold_all_due
    monkeypatch.setattr(
        recovery.held, "hold_all_due", lambda *given: looked.append(hold_all_due(*given)) or looked[-1]
    )
    recoverer = Recoverer(machine.settings, machine.database, NoInbox())
    for _ in range(3):
        assert recoverer.step()
    clock.step(minutes=2)
    assert recoverer.step()
    assert not recoverer.step()
    assert looked == [3]
    assert [row.held for row in every(database, tables.recoveries)] == [3]


def test_lost_texts_are_forgotten_when_the_witness_would_be(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    before = Snapshot(database)
    queue(database, phone(1))
    assert machine.send() == 1
    restored(machine, before)
    clock = Clock(machine.database)
    for days, left in ((machine.settings.witness_days - 1, 1), (2, 0)):
        clock.step(days=days)
        sweep.sweep(machine.database, machine.settings)
        assert count(machine.database, tables.lost_texts) == left


def register_other(database: Database) -> str:
    """A machine that has sent before and does not start again."""
    row = {"folder_id": "f" * 32, "host": "gone", "path": "/gone"}
    in_write(
        database,
        lambda connection, now: connection.execute(insert(tables.witness_folders).values(**row, seen_at=now)),
    )
    return "gone"


def test_a_machine_that_stays_silent_keeps_what_was_due_held(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    register_other(database)
    queue(database, *phones(2))
    later = utc_now() + timedelta(hours=1)
    queue(database, phone(5), due_at=later)
    before = Snapshot(database)
    machine.send()
    before.put_back(database)
    queue(database, phone(3))
    machine.start()
    machine.send()
    clock = Clock(machine.database)
    assert machine.recoverer.step()
    assert machine.recoverer.step()
    assert machine.send() == 0
    clock.step(minutes=2)
    found = machine.recover()
    assert (found.unknown, found.held) == (2, 1)
    assert machine.send() == 0
    assert statuses_of(database) == ["unknown", "unknown", "queued", "held"]
    assert message_to(database, phone(3)).reason == REASON
    assert audit.audit(database).problems == []


def test_a_machine_that_comes_back_later_makes_unknown_what_it_had_sent_of_the_held(
    database: Database, fake_at: FakeProvider, machine: Machine, tmp_path: Path
) -> None:
    elsewhere = machine.settings.model_copy(update={"witness_dir": str(tmp_path / "other")})
    other = Machine(elsewhere, machine.client)
    other.recoverer.step()
    queue(database, *phones(2))
    machine.beat()
    before = Snapshot(database)
    machine.beat()
    assert other.send() == 2
    before.put_back(database)
    machine.start()
    clock = Clock(machine.database)
    machine.send()
    # However long nothing has run: the others get their time from now on.
    clock.step(minutes=3)
    assert machine.recoverer.step()
    assert statuses_of(database) == ["queued", "queued"]
    clock.step(minutes=3)
    assert machine.recover().held == 2
    assert statuses_of(database) == ["held", "held"]
    other.start()
    other.send()
    assert other.recoverer.step()
    assert machine.recover().unknown == 2
    other.close()
    assert statuses_of(database) == ["unknown", "unknown"]
    assert sorted(sent(fake_at)) == phones(2)


def test_a_restored_database_of_which_no_witness_is_left_holds_what_was_due(
    database: Database, fake_at: FakeProvider, machine: Machine
) -> None:
    queue(database, *phones(2))
    in_write(database, lambda connection, now: rollback.open_recovery(connection, rollback.RESTORED, now))
    assert machine.recover().held == 2
    assert machine.send() == 0
    assert statuses_of(database) == ["held", "held"]


def findings_of(machine: Machine) -> dict[str, Finding]:
    service = Service(machine.settings)
    try:
        return {one.part: one for one in examine(service)}
    finally:
        service.database.close()


@pytest.fixture
def is_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' tables are made without Alembic."""
    monkeypatch.setattr(doctor, "require_migrated", lambda _database: None)


@pytest.mark.usefixtures("is_migrated")
def test_the_doctor_and_the_audit_tell_from_when_to_when_records_are_missing(
    database: Database, machine: Machine
) -> None:
    assert findings_of(machine)["recovery"].is_well
    machine.beat()
    beat_at = every(database, tables.database_identity)[0].beat_at
    queue(database, *phones(2))
    before = Snapshot(database)
    machine.send()
    before.put_back(database)
    machine.start()
    machine.send()
    assert "nothing is sent yet" in findings_of(machine)["recovery"].says
    opened_at = machine.recover().opened_at
    found = findings_of(machine)["recovery"]
    assert not found.is_well
    assert f"from {rfc3339(beat_at)} to {rfc3339(opened_at)}: 1 POSTs had left, 2 messages" in found.says
    (listed,) = (one for one in audit.audit(database).listed if one["kind"] == "records_missing")
    assert listed["detail"] == found.says
    assert audit.audit(database).counts["recoveries"] == 1
    gauges = {one.name: one.values[""] for one in Gauges(database).read() if one.label is None}
    assert (gauges["sms_recovering"], gauges["sms_recoveries"], gauges["sms_recovered_unknown"]) == (0, 1, 2)


@pytest.mark.usefixtures("is_migrated")
def test_a_witness_that_cannot_be_written_is_told_and_makes_nobody_unready(
    database: Database, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert findings_of(machine)["witness"].is_well
    full = "No space left on device"
    monkeypatch.setattr(recovery, "find_problem", lambda _folder: full)
    monkeypatch.setattr(doctor, "find_problem", lambda _folder: full)
    machine.start()
    machine.recoverer._folder_id = None
    machine.recoverer.step()
    found = findings_of(machine)["witness"]
    assert (found.is_well, full in found.says) == (False, True)
    service = Service(machine.settings)
    assert full in health.sending_state(service)["witness"]
    assert health.sending_state(service)["recovery"] == "ok"
    service.database.close()
    assert {one.name: one for one in Gauges(database).read()}["sms_witness_unwritable"].values[""] == 1


def test_two_processes_of_one_machine_have_one_folder(database: Database, machine: Machine) -> None:
    machine.start()
    machine.recoverer.step()
    assert count(database, tables.witness_folders) == 1
    names = {path.name for path in Path(machine.settings.witness_dir).iterdir()}
    assert not {name for name in names if name.startswith(("id-", "probe-"))}
