from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import event, text

from messaging.callbacks.receive import CallbackReceiver
from messaging.consent import ledger
from messaging.messages import accept
from messaging.messages.accept import SendRequest
from messaging.operations import health, sweep
from messaging.operations.audit import CHECKS, MOST_NAMED, Audit, audit
from messaging.sending.sender import MessageSender
from messaging.sending.triggers import TriggerSender
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.callback_rows import open_inbox
from tests.support.delivery import (
    Clock,
    begin_posting,
    change,
    claim_one,
    message_to,
    opt_out,
    phone,
    phones,
    queue,
    queue_batch,
    statuses_of,
)
from tests.support.fake_provider import FakeProvider
from utils.errors import ServiceError
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

ACCEPTED, REJECTED, UNKNOWN, DELIVERED, BLOCKED, QUEUED = phones(6)
REPLIER, LEAVER = phones(2, first=50)


@pytest.fixture
def inbox(database: Database, at_settings: Settings) -> Iterator[CallbackReceiver]:
    with open_inbox(database, at_settings) as inbox:
        yield inbox


@pytest.fixture
def books(
    database: Database,
    at_settings: Settings,
    fake_at: FakeProvider,
    client: ProviderClient,
    inbox: CallbackReceiver,
) -> Database:
    """After a day's work: some of everything that may become of a message."""
    fake_at.refused = {REJECTED: (407, "CouldNotRoute"), UNKNOWN: (501, "GatewayError")}
    opt_out(database, BLOCKED)
    to = (ACCEPTED, REJECTED, UNKNOWN, DELIVERED, BLOCKED)
    accept.accept(at_settings, database, SendRequest(to, "Hello", on_unknown="hold"), "key")
    MessageSender(at_settings, database, client).run_until_idle()
    TriggerSender(at_settings, database, client).send_now("Now", [phone(40)], None)
    provider_id = message_to(database, DELIVERED).provider_message_id
    inbox.receive("report", f"id={provider_id}&status=Success&phoneNumber={DELIVERED[1:]}".encode())
    inbox.receive("report", f"id={provider_id}&status=Sent&phoneNumber={DELIVERED[1:]}".encode())
    inbox.receive("inbound", f"from=%2B{REPLIER[1:]}&to=20880&text=Hi&id=i-1".encode())
    inbox.receive("opt_out", f"phoneNumber=%2B{LEAVER[1:]}&senderId=ACME".encode())
    MessageSender(at_settings, database, client).run_until_idle()
    queue(database, QUEUED)
    return database


def kinds(found: Audit) -> set[str]:
    return {problem.kind for problem in found.problems}


def run(database: Database, *statements: str, **values: object) -> None:
    with database.write() as connection:
        for statement in statements:
            assert connection.execute(text(statement), values).rowcount > 0, statement


def test_empty_books_are_in_order(database: Database) -> None:
    assert audit(database).ok


def test_a_days_work_is_in_order(books: Database) -> None:
    found = audit(books)
    assert found.problems == []
    assert found.ok
    assert {"accepted", "rejected", "unknown", "delivered", "blocked", "queued"} == set(statuses_of(books))
    assert found.counts["messages_delivered"] == 1
    assert found.counts["inbound_messages"] == 1


def test_work_that_is_under_way_is_in_order(
    database: Database, at_settings: Settings, client: ProviderClient
) -> None:
    queue_batch(database, phones(3))
    one = claim_one(database)
    assert audit(database).ok
    begin_posting(database, one)
    assert audit(database).ok


def test_what_workers_that_died_left_behind_is_in_order_once_it_was_swept(
    database: Database, settings: Settings, clock: Clock
) -> None:
    queue(database, phone(1), text="claimed")
    claim_one(database)
    queue(database, phone(2), text="posting")
    begin_posting(database, claim_one(database))
    clock.step(minutes=10)
    assert kinds(audit(database)) == {"lease_overdue"}
    sweep.sweep(database, settings)
    assert audit(database).ok


def test_a_text_that_was_sent_again_because_its_sender_said_so_is_in_order(
    database: Database, at_settings: Settings, fake_at: FakeProvider, client: ProviderClient, clock: Clock
) -> None:
    fake_at.script = [(500, "text/plain", "oops")]
    queue(database, phone(1), on_unknown="resend")
    sender = MessageSender(at_settings, database, client)
    sender.run_until_idle()
    clock.step(minutes=1)
    sender.run_until_idle()
    assert statuses_of(database) == ["accepted"]
    assert audit(database).ok


def test_a_report_that_waits_is_in_order_for_a_minute_and_as_long_as_no_worker_is_alive(
    database: Database, at_settings: Settings, clock: Clock
) -> None:
    web = CallbackReceiver(database, at_settings)
    web.receive("report", b"id=a&status=Success")
    web.stop()
    health.beat(database, "worker-1")
    assert audit(database).ok
    clock.step(minutes=2)
    assert audit(database).ok
    health.beat(database, "worker-1")
    (problem,) = audit(database).problems
    assert problem.kind == "report_not_applied"
    assert "callback 1 has waited for 12" in problem.detail


def test_an_opt_out_that_was_lifted_is_in_order(database: Database) -> None:
    opt_out(database, phone(1))
    with database.write() as connection:
        ledger.record_start(connection, phone(1), None)
    opt_out(database, phone(1))
    with database.write() as connection:
        ledger.record_start(connection, phone(1), None)
    assert audit(database).ok


def test_a_trigger_that_failed_is_in_order(
    database: Database, at_settings: Settings, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.script = [(401, "text/plain", "bad key"), (500, "text/plain", "oops")]
    sender = TriggerSender(at_settings, database, client)
    for _ in range(2):
        with pytest.raises(ServiceError):
            sender.send_now("Now", phones(2), None)
    assert audit(database).ok


CORRUPTIONS: list[tuple[str, str, list[str]]] = [
    (
        "a status that nobody knows",
        "unknown_status",
        ["UPDATE messages SET status = 'lost' WHERE recipient = :accepted"],
    ),
    (
        "a message of a request that is gone",
        "missing_messages",
        [
            "DELETE FROM message_events WHERE message_id ="
            " (SELECT id FROM messages WHERE recipient = :accepted)",
            "DELETE FROM messages WHERE recipient = :accepted",
        ],
    ),
    (
        "a trigger's message that is gone",
        "missing_messages",
        [
            "DELETE FROM message_events WHERE message_id ="
            " (SELECT id FROM messages WHERE origin = 'trigger')",
            "DELETE FROM messages WHERE origin = 'trigger'",
        ],
    ),
    (
        "a batch that promises more than it has",
        "missing_messages",
        ["UPDATE batches SET total = total + 1"],
    ),
    (
        "a message called delivered that no report delivered",
        "history_disagrees",
        ["UPDATE messages SET status = 'delivered' WHERE recipient = :accepted"],
    ),
    (
        "a message that was sent and is in the queue again",
        "history_disagrees",
        ["UPDATE messages SET status = 'queued', attempt_id = NULL WHERE recipient = :accepted"],
    ),
    (
        "a message without the history of its status",
        "history_disagrees",
        ["DELETE FROM message_events WHERE status = 'delivered'"],
    ),
    (
        "a delivered message that went back",
        "went_backward",
        [
            "INSERT INTO message_events (message_id, at, status, source)"
            " SELECT message_id, at, 'accepted', 'report' FROM message_events WHERE status = 'delivered'",
            "UPDATE messages SET status = 'accepted' WHERE recipient = :delivered",
        ],
    ),
    (
        "a rejected message that was queued again",
        "went_backward",
        [
            "INSERT INTO message_events (message_id, at, status, source)"
            " SELECT message_id, at, 'queued', 'provider' FROM message_events WHERE status = 'rejected'",
            "UPDATE messages SET status = 'queued' WHERE recipient = :rejected",
        ],
    ),
    (
        "a message that two attempts brought to AT",
        "accepted_twice",
        [
            "INSERT INTO message_events (message_id, at, status, source, attempt_id)"
            " SELECT message_id, at, 'accepted', 'provider', attempt_id + 1 FROM message_events"
            " WHERE status = 'accepted' AND message_id ="
            " (SELECT id FROM messages WHERE recipient = :accepted)",
        ],
    ),
    (
        "a second acceptance that its sender never asked for",
        "accepted_twice",
        [
            "UPDATE messages SET unknown_resends = 1 WHERE recipient = :accepted",
            "INSERT INTO message_events (message_id, at, status, source, attempt_id)"
            " SELECT message_id, at, 'accepted', 'provider', attempt_id + 1 FROM message_events"
            " WHERE status = 'accepted' AND message_id ="
            " (SELECT id FROM messages WHERE recipient = :accepted)",
        ],
    ),
    (
        "a third acceptance, where a second one was asked for",
        "accepted_twice",
        [
            "UPDATE messages SET unknown_resends = 2, on_unknown = 'resend' WHERE recipient = :accepted",
            "INSERT INTO message_events (message_id, at, status, source, attempt_id)"
            " SELECT message_id, at, 'accepted', 'provider', attempt_id + more"
            " FROM message_events, (SELECT 1 AS more UNION SELECT 2) AS twice"
            " WHERE status = 'accepted' AND message_id ="
            " (SELECT id FROM messages WHERE recipient = :accepted)",
        ],
    ),
    (
        "one id of AT's on two messages",
        "shared_provider_id",
        [
            "UPDATE messages SET provider_message_id ="
            " (SELECT provider_message_id FROM messages WHERE recipient = :delivered)"
            " WHERE recipient = :accepted",
        ],
    ),
    (
        "a message that is sending, held by nothing",
        "held_by_no_attempt",
        ["UPDATE messages SET status = 'sending', attempt_id = NULL WHERE recipient = :queued"],
    ),
    (
        "a message that is sending, held by an attempt that is over",
        "held_by_no_attempt",
        ["UPDATE messages SET status = 'sending', attempt_id = 1 WHERE recipient = :queued"],
    ),
    (
        "a callback that was not applied",
        "unapplied_callback",
        ["UPDATE callbacks SET outcome = 'unapplied' WHERE kind = 'inbound'"],
    ),
    (
        "a cost that is not what AT wrote",
        "cost_differs",
        ["UPDATE messages SET cost_micros = cost_micros + 1 WHERE recipient = :accepted"],
    ),
    (
        "a cost in another currency",
        "cost_differs",
        ["UPDATE messages SET cost_currency = 'USD' WHERE recipient = :accepted"],
    ),
    (
        "a cost that AT never wrote",
        "cost_differs",
        ["UPDATE messages SET cost_micros = 5, cost_currency = 'KES' WHERE recipient = :queued"],
    ),
    (
        "a cost that was dropped",
        "cost_differs",
        ["UPDATE messages SET cost_micros = NULL WHERE recipient = :accepted"],
    ),
    (
        "an opt-out that is not in force",
        "opt_out_differs",
        ["DELETE FROM suppressions WHERE phone = :blocked"],
    ),
    (
        "a block that nobody asked for",
        "opt_out_differs",
        [
            "INSERT INTO suppressions (phone, sender_id, opt_out_id)"
            " SELECT :queued, '', opt_out_id FROM suppressions WHERE phone = :blocked"
        ],
    ),
    (
        "a block for more than was asked",
        "opt_out_differs",
        ["UPDATE suppressions SET sender_id = '' WHERE phone = :leaver"],
    ),
]


@pytest.mark.parametrize(
    ("kind", "statements"), [each[1:] for each in CORRUPTIONS], ids=[each[0] for each in CORRUPTIONS]
)
def test_every_kind_of_contradiction_is_found(books: Database, kind: str, statements: list[str]) -> None:
    values = {"accepted": ACCEPTED, "rejected": REJECTED, "delivered": DELIVERED, "blocked": BLOCKED}
    values |= {"queued": QUEUED, "leaver": LEAVER}
    for statement in statements:
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        run(books, statement, **used)
    found = audit(books)
    assert not found.ok
    assert kind in kinds(found)


def test_a_problem_names_its_message(books: Database) -> None:
    row = message_to(books, ACCEPTED)
    change(books, tables.messages, row.id, status="delivered")
    (problem,) = audit(books).problems
    assert (problem.kind, problem.message_id) == ("history_disagrees", row.id)
    assert "delivered" in problem.detail
    assert "accepted" in problem.detail


def test_the_answer_is_json_and_holds_no_number_and_no_text(books: Database) -> None:
    run(books, "UPDATE messages SET status = 'lost'")
    written = json.dumps(audit(books).as_json())
    assert json.loads(written)["ok"] is False
    assert "+254" not in written
    assert "Hello" not in written


def test_a_disaster_is_named_by_its_first_hundred_and_not_at_length(database: Database) -> None:
    queue(database, *phones(MOST_NAMED + 50))
    run(database, "UPDATE messages SET status = 'delivered'")
    assert len(audit(database).problems) == MOST_NAMED


def test_a_quarantined_callback_is_listed_and_is_no_problem(
    database: Database, inbox: CallbackReceiver
) -> None:
    inbox.receive("inbound", b"nonsense")
    found = audit(database)
    assert found.ok
    assert [each["kind"] for each in found.listed] == ["quarantined_callback"]


def test_a_parked_report_is_listed_and_is_no_problem(database: Database, inbox: CallbackReceiver) -> None:
    inbox.receive("report", b"id=ATXid_nobody&status=Success")
    found = audit(database)
    assert found.ok
    assert found.counts["reports_parked"] == 1
    assert [each["kind"] for each in found.listed] == ["parked_report"]


def test_no_statistics_make_the_audit_join_by_nested_loops(books: Database) -> None:
    """Until PostgreSQL has analysed a table it takes it for tiny; 53,000 messages then took two minutes."""
    if books.is_sqlite:
        pytest.skip("SQLite joins by its indexes alone")
    asked: list[tuple[str, object]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(books.engine, "before_cursor_execute", note)
    audit(books)
    event.remove(books.engine, "before_cursor_execute", note)
    selects = [(statement, given) for statement, given in asked if "FROM" in statement]
    assert len(selects) > len(CHECKS)
    settings = [statement for statement, _ in asked if statement.startswith("SET LOCAL")]
    with books.read() as connection:
        for statement in settings:
            connection.exec_driver_sql(statement)
        for statement, given in selects:
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", given).scalars())
            assert "Nested Loop" not in plan, statement
