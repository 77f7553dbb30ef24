"""The connection to PostgreSQL ends at COMMIT: what was done is told as done, what was not as not done."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest
from sqlalchemy import insert, text

from messaging.batches import upload, upload_store
from messaging.batches.upload import BatchRequest
from messaging.consent import views
from messaging.conversations import threads
from messaging.messages import accept, idempotency, unknown_outcomes
from messaging.messages.accept import SendRequest
from messaging.storage import commit_tokens, tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.delivery import count, every, in_write, phone, queue
from tests.support.postgresql_proxy import AFTER, BEFORE, NEVER, PostgresqlProxy
from utils.errors import AcceptanceUnknown, StorageUnavailable
from utils.settings import Settings

CALLS = 130
GATE = 4711
TIMEOUT_SECONDS = 15.0

pytestmark = [
    pytest.mark.services,
    pytest.mark.parametrize("database_url", ["postgresql"], indirect=True),
]


@pytest.fixture
def proxy(database_url: str) -> Iterator[PostgresqlProxy]:
    """`database` goes past it."""
    with PostgresqlProxy(database_url) as found:
        yield found


@pytest.fixture
def cut(proxy: PostgresqlProxy) -> Iterator[Database]:
    """What the service writes through."""
    found = Database(proxy.url.replace("postgresql://", "postgresql+psycopg://", 1))
    yield found
    found.close()


@pytest.fixture
def at_commit(database: Database) -> Iterator[threading.Event]:
    """Transactions that add a counter stand still within COMMIT until the event is set."""
    with database.write() as connection:
        connection.execute(text(WAITS_IN_COMMIT))
        connection.execute(text(TRIGGER))
    gate = threading.Event()
    holder = database.engine.connect()
    holder.execute(text(f"SELECT pg_advisory_lock({GATE})"))

    def hold() -> None:
        gate.wait()
        holder.execute(text(f"SELECT pg_advisory_unlock({GATE})"))
        holder.commit()

    thread = threading.Thread(target=hold)
    thread.start()
    yield gate
    gate.set()
    thread.join(TIMEOUT_SECONDS)
    holder.close()
    with database.write() as connection:
        connection.execute(text("DROP TRIGGER waits_in_commit ON counters"))
        connection.execute(text("DROP FUNCTION waits_in_commit"))


WAITS_IN_COMMIT = f"""
CREATE FUNCTION waits_in_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock({GATE}); RETURN NULL; END $$
"""
TRIGGER = """
CREATE CONSTRAINT TRIGGER waits_in_commit AFTER INSERT ON counters
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION waits_in_commit()
"""
IN_COMMIT = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :gate AND NOT granted"
)


def wait_until_in_commit(database: Database) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        with database.read() as connection:
            if connection.execute(IN_COMMIT, {"gate": GATE}).scalar_one():
                return
        assert time.monotonic() < deadline, "no transaction came to its COMMIT"
        time.sleep(0.01)


def add_counter(database: Database, name: str) -> None:
    with database.write(settled=True) as connection:
        connection.execute(insert(tables.counters).values(name=name, value=1))


def reply_in_chat(database: Database, _settings: Settings) -> object:
    return threads.say(database, phone(1), "Hello")


def send_one(database: Database, settings: Settings) -> object:
    return accept.accept(settings, database, SendRequest([phone(1)], "Hello"))


def resend_one(database: Database, _settings: Settings) -> object:
    with database.read() as connection:
        lost = connection.execute(text("SELECT max(id) FROM messages WHERE status = 'unknown'")).scalar_one()
    return unknown_outcomes.resend(database, lost)


def stop_one(database: Database, _settings: Settings) -> object:
    return views.stop(database, phone(2), None, None, "operator")


def prepare(database: Database) -> None:
    queue(database, phone(9))
    with database.write() as connection:
        connection.execute(tables.messages.update().values(status="unknown"))
        row = {"phone": phone(1), "number": "20880", "last_inbound_id": 1, "last_at": utc_now(), "unread": 0}
        connection.execute(insert(tables.conversations).values(**row))


def upload_batch(database: Database, settings: Settings) -> object:
    file = io.BytesIO(f"phone\n{phone(1)}\n".encode())
    return upload.receive(settings, database, BatchRequest("Hello"), file)


EFFECTS = [send_one, reply_in_chat, resend_one, stop_one]


@pytest.mark.parametrize("write", EFFECTS)
def test_what_was_committed_before_the_line_was_cut_is_answered_as_done(
    proxy: PostgresqlProxy,
    cut: Database,
    database: Database,
    settings: Settings,
    write: Callable[[Database, Settings], object],
) -> None:
    prepare(database)
    was = count(database, tables.messages)
    proxy.cut_at_commit = AFTER
    assert write(cut, settings) is not None
    assert proxy.cuts >= 1
    assert count(database, tables.messages) == was + (write is not stop_one)


@pytest.mark.parametrize("write", EFFECTS)
def test_what_never_reached_the_server_is_answered_as_not_done(
    proxy: PostgresqlProxy,
    cut: Database,
    database: Database,
    settings: Settings,
    write: Callable[[Database, Settings], object],
) -> None:
    prepare(database)
    was = count(database, tables.messages)
    proxy.cut_at_commit = BEFORE
    with pytest.raises(StorageUnavailable):
        write(cut, settings)
    assert proxy.cuts >= 1
    assert count(database, tables.messages) == was


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_the_end_of_an_upload_is_answered_truly(
    proxy: PostgresqlProxy,
    cut: Database,
    database: Database,
    settings: Settings,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pieces are transactions of their own; the batch is written last."""
    store = upload_store.store

    def store_and_cut(*arguments: Any) -> str:
        upload_id = store(*arguments)
        proxy.cut_at_commit = moment
        return upload_id

    monkeypatch.setattr(upload_store, "store", store_and_cut)
    if moment == AFTER:
        upload_batch(cut, settings)
    else:
        with pytest.raises(StorageUnavailable):
            upload_batch(cut, settings)
    assert proxy.cuts == 1
    assert count(database, tables.batches) == (moment == AFTER)


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_every_answer_of_many_calls_over_lines_that_are_cut_is_true(
    proxy: PostgresqlProxy, cut: Database, database: Database, settings: Settings, moment: str
) -> None:
    """The line is cut before the server has answered: some AFTER are cut while the server still commits."""
    proxy.cut_at_commit = moment
    told: list[str] = []
    for serial in range(CALLS):
        try:
            accept.accept(settings, cut, SendRequest([phone(serial)], "Hello"))
            told.append(phone(serial))
        except StorageUnavailable:
            continue
    assert proxy.cuts >= CALLS
    assert sorted(row.recipient for row in every(database, tables.messages)) == sorted(told)
    assert len(told) == (CALLS if moment == AFTER else 0)


def test_one_that_stands_still_in_its_commit_is_waited_for(
    proxy: PostgresqlProxy, cut: Database, database: Database, at_commit: threading.Event
) -> None:
    proxy.cut_at_commit = AFTER
    proxy.on_cut = lambda: wait_until_in_commit(database)
    thread = threading.Thread(target=add_counter, args=(cut, "a"))
    thread.start()
    thread.join(1)
    assert thread.is_alive()
    assert proxy.cuts == 1
    at_commit.set()
    thread.join(TIMEOUT_SECONDS)
    assert not thread.is_alive()
    assert [row.name for row in every(database, tables.counters)] == ["a"]


def test_one_that_stands_still_too_long_is_answered_as_unknown_and_may_be_committed_later(
    proxy: PostgresqlProxy,
    cut: Database,
    database: Database,
    at_commit: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commit_tokens, "TIMEOUT_SECONDS", 0.5)
    proxy.cut_at_commit = AFTER
    proxy.on_cut = lambda: wait_until_in_commit(database)
    with pytest.raises(AcceptanceUnknown, match="may have been accepted; repeat only with the same"):
        add_counter(cut, "a")
    assert count(database, tables.counters) == 0
    at_commit.set()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not count(database, tables.counters):
        assert time.monotonic() < deadline, "it was committed after all"
        time.sleep(0.01)


def test_a_server_that_refuses_the_commit_has_told_and_is_not_asked_again(
    cut: Database, database: Database
) -> None:
    """The reason comes to the caller as it is."""
    with database.write() as connection:
        connection.execute(text("CREATE TABLE strict (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    try:
        with pytest.raises(Exception, match="duplicate key"), cut.write(settled=True) as connection:
            connection.execute(text("INSERT INTO strict VALUES (1), (1)"))
    finally:
        with database.write() as connection:
            connection.execute(text("DROP TABLE strict"))


def test_a_line_that_is_whole_leaves_answers_as_they_were(
    proxy: PostgresqlProxy, cut: Database, database: Database
) -> None:
    proxy.cut_at_commit = NEVER
    add_counter(cut, "a")
    assert count(database, tables.counters) == 1
    assert proxy.cuts == 0


def test_a_token_outlives_a_sweep_where_this_machine_s_clock_is_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgotten before it was asked for, it would say "not committed" of what was."""

    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Behind:
            return super().now(tz) - timedelta(days=2)

    monkeypatch.setattr(commit_tokens, "datetime", Behind, raising=False)
    with database.write(settled=True):
        pass
    assert in_write(database, idempotency.forget_old) == 0
    assert count(database, tables.idempotency_keys) == 1
