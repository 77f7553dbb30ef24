from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from messaging.callbacks.receive import CallbackReceiver
from messaging.operations.audit import audit
from messaging.reports import adoption, find, parked
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database, lock_keys
from tests.support.callback_rows import (
    OTHER_PHONE,
    PHONE,
    add_message,
    all_rows,
    counting_statements,
    message,
    move_time,
    only_row,
    open_inbox,
    report,
)
from tests.support.stack import eventually
from utils.settings import Settings


@pytest.fixture
def inbox(database: Database, settings: Settings) -> Iterator[CallbackReceiver]:
    """One that never adopts by itself, so that a test can look at the moment before."""
    with open_inbox(database, settings, adopt_by_number=False) as inbox:
        yield inbox


def record(database: Database, provider_id: str, message_id: int) -> int:
    """As the record of AT's answer does it: the lock, the id, the look among the parked."""
    with database.write() as connection:
        lock_keys(connection, [f"report:{provider_id}"])
        accepted = {"status": "accepted", "provider_message_id": provider_id, "sent_at": utc_now()}
        connection.execute(
            tables.messages.update().where(tables.messages.c.id == message_id).values(**accepted)
        )
        return parked.join_parked(connection, {provider_id: message_id})


def events_of(database: Database, message_id: int) -> list[tuple[str, str]]:
    rows = all_rows(database, tables.message_events)
    return [(row.status, row.source) for row in rows if row.message_id == message_id]


def adopt(database: Database) -> int:
    return adoption.adopt_by_number(database)


def whys(database: Database) -> list[str]:
    with database.read() as connection:
        return [one.why for one in adoption.ambiguous_reports(connection)]


def test_a_report_of_an_unknown_id_is_parked(database: Database, inbox: CallbackReceiver) -> None:
    inbox.receive("report", report("a"))
    row = only_row(database, tables.delivery_reports)
    assert (row.effect, row.message_id, row.recipient) == ("parked", None, PHONE)


def test_an_answer_finds_the_reports_that_came_before_it(database: Database, inbox: CallbackReceiver) -> None:
    message_id = add_message(database, "sending")
    for body in (report("a", "Sent"), report("a", "Success", networkCode="63902"), report("b")):
        inbox.receive("report", body)
    assert record(database, "a", message_id) == 2
    row = message(database, message_id)
    assert (row.status, row.network) == ("delivered", "63902")
    rows = all_rows(database, tables.delivery_reports)
    assert [(one.effect, one.message_id) for one in rows] == [
        ("noted", message_id),
        ("moved", message_id),
        ("parked", None),
    ]
    assert events_of(database, message_id) == [("delivered", "report")]


def test_a_blacklist_report_that_came_before_the_answer_blocks_its_sender_id(
    database: Database, inbox: CallbackReceiver
) -> None:
    message_id = add_message(database, "sending", sender_id="Acme")
    inbox.receive("report", report("a", "Rejected", failureReason="UserInBlackList"))
    record(database, "a", message_id)
    assert only_row(database, tables.suppressions).sender_id == "ACME"


def test_an_answer_without_parked_reports_changes_nothing(database: Database) -> None:
    message_id = add_message(database, "sending")
    assert record(database, "a", message_id) == 0
    with database.write() as connection:
        assert parked.join_parked(connection, {}) == 0


def test_a_report_and_the_record_of_its_answer_never_miss_each_other(
    database: Database, inbox: CallbackReceiver
) -> None:
    """The report looks for its message while the record holds the lock, and has not committed yet."""
    message_id = add_message(database, "sending")
    thread = threading.Thread(target=inbox.receive, args=("report", report("a")))
    with database.write() as connection:
        lock_keys(connection, ["report:a"])
        thread.start()
        accepted = {"status": "accepted", "provider_message_id": "a"}
        connection.execute(
            tables.messages.update().where(tables.messages.c.id == message_id).values(**accepted)
        )
        assert parked.join_parked(connection, {"a": message_id}) == 0
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(10)
    assert message(database, message_id).status == "delivered"


def test_a_record_that_comes_while_its_report_is_being_parked_joins_it(
    database: Database, inbox: CallbackReceiver
) -> None:
    """The report has looked, found nothing, and has not committed yet."""
    message_id = add_message(database, "sending")
    looked, go_on = threading.Event(), threading.Event()

    def pause_before_parking(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "INTO delivery_reports" in statement:
            looked.set()
            go_on.wait(10)

    event.listen(database.engine, "before_cursor_execute", pause_before_parking)
    reporter = threading.Thread(target=inbox.receive, args=("report", report("a")))
    recorder = threading.Thread(target=record, args=(database, "a", message_id))
    try:
        reporter.start()
        assert looked.wait(10)
        recorder.start()
        recorder.join(0.3)
        assert recorder.is_alive()
    finally:
        go_on.set()
        reporter.join(10)
        recorder.join(10)
        event.remove(database.engine, "before_cursor_execute", pause_before_parking)
    assert message(database, message_id).status == "delivered"


def test_the_sweep_joins_what_slipped_by(database: Database, inbox: CallbackReceiver) -> None:
    inbox.receive("report", report("a"))
    inbox.receive("report", report("b"))
    message_id = add_message(database, "accepted", "a", sent_at=utc_now())
    assert parked.join_stragglers(database) == 1
    assert parked.join_stragglers(database) == 0
    assert message(database, message_id).status == "delivered"
    assert [row.effect for row in all_rows(database, tables.delivery_reports)] == ["moved", "parked"]


def test_a_message_whose_answer_was_lost_adopts_the_report_to_its_number(
    database: Database, inbox: CallbackReceiver
) -> None:
    message_id = add_message(database, "unknown")
    inbox.receive("report", report("a", "Sent"))
    inbox.receive("report", report("a", "Success", networkCode="63902"))
    assert adopt(database) == 1
    row = message(database, message_id)
    assert (row.status, row.provider_message_id, row.network) == ("delivered", "a", "63902")
    assert events_of(database, message_id) == [("accepted", "inferred"), ("delivered", "inferred")]
    assert [one.effect for one in all_rows(database, tables.delivery_reports)] == ["adopted", "adopted"]
    assert {one.message_id for one in all_rows(database, tables.delivery_reports)} == {message_id}
    assert adopt(database) == 0


def test_a_failure_is_adopted_with_its_reason(database: Database, inbox: CallbackReceiver) -> None:
    message_id = add_message(database, "unknown", reason="timeout")
    inbox.receive("report", report("a", "Failed", failureReason="UserDoesNotExist"))
    adopt(database)
    row = message(database, message_id)
    assert (row.status, row.reason) == ("failed", "unknown_number")


def test_a_later_report_of_an_adopted_id_is_real_evidence(
    database: Database, inbox: CallbackReceiver
) -> None:
    message_id = add_message(database, "unknown")
    inbox.receive("report", report("a", "Failed"))
    adopt(database)
    inbox.receive("report", report("a", "Success"))
    assert message(database, message_id).status == "delivered"
    assert events_of(database, message_id) == [("failed", "inferred"), ("delivered", "report")]


def test_a_report_is_adopted_as_it_comes_where_the_answer_is_lost_already(
    database: Database, settings: Settings
) -> None:
    message_id = add_message(database, "unknown")
    with open_inbox(database, settings) as inbox:
        inbox.receive("report", report("a"))
    assert message(database, message_id).status == "delivered"


def test_nothing_is_adopted_as_it_comes_where_that_is_turned_off(
    database: Database, inbox: CallbackReceiver
) -> None:
    message_id = add_message(database, "unknown")
    inbox.receive("report", report("a"))
    assert message(database, message_id).status == "unknown"
    assert whys(database) == ["not adopted yet"]


def test_a_report_before_the_attempt_cannot_be_its_own(database: Database, inbox: CallbackReceiver) -> None:
    inbox.receive("report", report("a"))
    message_id = add_message(database, "unknown", posted_ago=timedelta(0))
    assert adopt(database) == 0
    assert message(database, message_id).status == "unknown"


def test_a_report_more_than_72_hours_after_the_attempt_is_not_adopted(
    database: Database, inbox: CallbackReceiver
) -> None:
    early = add_message(database, "unknown", posted_ago=timedelta(hours=73))
    in_time = add_message(database, "unknown", phone=OTHER_PHONE, posted_ago=timedelta(hours=71))
    inbox.receive("report", report("a"))
    inbox.receive("report", report("b", phone=OTHER_PHONE))
    assert adopt(database) == 1
    assert [message(database, one).status for one in (early, in_time)] == ["unknown", "delivered"]


def test_two_messages_that_may_own_a_report_both_stay_and_it_is_shown(
    database: Database, inbox: CallbackReceiver
) -> None:
    ids = [add_message(database, "unknown") for _ in range(2)]
    inbox.receive("report", report("a"))
    assert adopt(database) == 0
    assert [message(database, one).status for one in ids] == ["unknown", "unknown"]
    with database.read() as connection:
        (shown,) = adoption.ambiguous_reports(connection)
    assert (shown.provider_message_id, shown.recipient, shown.word) == ("a", PHONE, "Success")
    assert sorted(shown.message_ids) == ids
    assert shown.why == "several messages may own it"


def test_two_reports_that_one_message_may_own_both_stay(database: Database, inbox: CallbackReceiver) -> None:
    message_id = add_message(database, "unknown")
    inbox.receive("report", report("a"))
    inbox.receive("report", report("b", "Failed"))
    assert adopt(database) == 0
    assert message(database, message_id).status == "unknown"
    assert whys(database) == ["the message may own several ids"] * 2


def test_nothing_is_adopted_while_a_message_to_that_number_is_in_flight(
    database: Database, inbox: CallbackReceiver
) -> None:
    message_id = add_message(database, "unknown")
    flying = add_message(database, "sending")
    inbox.receive("report", report("a"))
    assert adopt(database) == 0
    assert whys(database) == ["a message to this number is in flight"]
    record(database, "b", flying)
    assert adopt(database) == 1
    assert message(database, message_id).status == "delivered"


def test_the_answer_of_the_message_in_flight_takes_its_own_report(
    database: Database, inbox: CallbackReceiver
) -> None:
    lost = add_message(database, "unknown")
    flying = add_message(database, "sending")
    inbox.receive("report", report("a"))
    adopt(database)
    record(database, "a", flying)
    adopt(database)
    assert [message(database, one).status for one in (lost, flying)] == ["unknown", "delivered"]


def test_a_message_that_was_sent_again_may_still_own_the_report_of_its_first_text(
    database: Database, inbox: CallbackReceiver
) -> None:
    resent = add_message(database, "accepted", "known", unknown_resends=1)
    lost = add_message(database, "unknown")
    inbox.receive("report", report("a"))
    assert adopt(database) == 0
    assert [message(database, one).status for one in (resent, lost)] == ["accepted", "unknown"]
    assert whys(database) == ["several messages may own it"]


def test_a_message_that_came_after_the_report_is_no_rival(
    database: Database, inbox: CallbackReceiver
) -> None:
    lost = add_message(database, "unknown")
    inbox.receive("report", report("a"))
    add_message(database, "queued", unknown_resends=1, created_at=utc_now())
    assert adopt(database) == 1
    assert message(database, lost).status == "delivered"


def test_a_lost_message_that_was_closed_by_hand_may_still_own_a_report(
    database: Database, inbox: CallbackReceiver
) -> None:
    closed = add_message(database, "failed")
    lost = add_message(database, "unknown")
    with database.write() as connection:
        for status in ("unknown", "failed"):
            row = {"message_id": closed, "at": utc_now(), "status": status, "source": "operator"}
            connection.execute(tables.message_events.insert(), row)
    inbox.receive("report", report("a"))
    assert adopt(database) == 0
    assert message(database, lost).status == "unknown"


def test_a_text_that_was_accepted_without_an_id_may_own_a_report(
    database: Database, inbox: CallbackReceiver
) -> None:
    nameless = add_message(database, "accepted")
    lost = add_message(database, "unknown")
    with database.write() as connection:
        row = {"message_id": nameless, "at": utc_now(), "status": "accepted", "source": "provider"}
        connection.execute(tables.message_events.insert(), row)
    inbox.receive("report", report("a"))
    assert adopt(database) == 0
    assert message(database, lost).status == "unknown"
    assert whys(database) == ["several messages may own it"]


def test_reports_parked_long_ago_are_listed_and_adopted_by_nobody(
    database: Database, inbox: CallbackReceiver
) -> None:
    inbox.receive("report", report("a"))
    move_time(database, tables.delivery_reports, "received_at", timedelta(days=30))
    lost = add_message(database, "unknown")
    assert adopt(database) == 0
    assert message(database, lost).status == "unknown"
    books = audit(database)
    assert books.counts["reports_parked"] == 1
    assert [entry["kind"] for entry in books.listed] == ["parked_report"]


def test_rows_are_locked_in_the_order_of_their_ids_whatever_index_finds_them(database: Database) -> None:
    """Two groups of reports with messages in common would wait for each other if each took its own order."""
    if database.is_sqlite:
        pytest.skip("SQLite has one writer, and needs no order")
    # By the provider's ids the later message comes first.
    first, last = add_message(database, provider_id="z"), add_message(database, provider_id="a")
    one_row = tables.messages.select().with_for_update(nowait=True)
    holder = database.engine.connect()
    holder.execute(one_row.where(tables.messages.c.id == first))
    process_ids: list[int] = []

    def look() -> None:
        with database.write() as connection:
            process_ids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
            for plan in ("seqscan", "bitmapscan", "sort"):
                connection.execute(text(f"SET LOCAL enable_{plan} = off"))
            find.by_provider_id(connection, ["a", "z"])

    looking = threading.Thread(target=look)
    looking.start()
    try:
        eventually(lambda: process_ids and waits_for_a_lock(database, process_ids[0]), "it meets the lock")
        with database.write() as connection:
            # Raises where the look-up holds this row while it waits for the other.
            assert connection.execute(one_row.where(tables.messages.c.id == last)).one().id == last
    finally:
        holder.close()
        looking.join(30)


def waits_for_a_lock(database: Database, process_id: int) -> bool:
    blocked = text("SELECT cardinality(pg_blocking_pids(:process_id)) > 0")
    with database.read() as connection:
        return bool(connection.execute(blocked, {"process_id": process_id}).scalar_one())


def test_messages_whose_fate_is_known_are_no_rivals(database: Database, inbox: CallbackReceiver) -> None:
    for status in ("accepted", "delivered", "rejected", "failed"):
        add_message(database, status, f"other-{status}")
    add_message(database, "failed")
    add_message(database, "queued")
    lost = add_message(database, "unknown")
    inbox.receive("report", report("a"))
    assert adopt(database) == 1
    assert message(database, lost).status == "delivered"


def test_a_word_we_do_not_know_is_no_reason_to_adopt(database: Database, inbox: CallbackReceiver) -> None:
    add_message(database, "unknown")
    inbox.receive("report", report("a", "Teleported"))
    assert adopt(database) == 0
    assert whys(database) == ["its status word is not known"]


def test_a_report_that_is_too_new_waits_for_the_next_look(
    database: Database, inbox: CallbackReceiver
) -> None:
    add_message(database, "unknown")
    inbox.receive("report", report("a"))
    assert adoption.adopt_by_number(database, utc_now() - timedelta(hours=1)) == 0
    assert adoption.adopt_by_number(database, utc_now()) == 1


def test_a_report_without_a_number_is_never_adopted(database: Database, inbox: CallbackReceiver) -> None:
    add_message(database, "unknown")
    inbox.receive("report", b"id=a&status=Success")
    assert adopt(database) == 0


def test_many_lost_messages_adopt_in_one_sweep(database: Database, inbox: CallbackReceiver) -> None:
    phones = [f"+2547110{number:05d}" for number in range(30)]
    ids = [add_message(database, "unknown", phone=phone) for phone in phones]
    for number, phone in enumerate(phones):
        inbox.receive("report", report(f"id-{number}", phone=phone))
    assert adopt(database) == 30
    assert {message(database, one).status for one in ids} == {"delivered"}


def test_a_report_that_nobody_can_own_costs_one_look(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("report", report("warm"))
        with counting_statements(database) as statements:
            inbox.receive("report", report("a"))
    assert len([one for one in statements if "messages.recipient" in one and "unknown" in one]) == 1


def test_the_parked_are_found_by_their_own_indexes(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL plans by statistics, which a small table does not have")
    for number in range(50):
        add_message(database, "accepted", f"id-{number}", phone=f"+2547110{number:05d}")
    looks = {
        "ix_messages_provider_message_id": find._BY_PROVIDER_ID["sqlite"],
        "ix_delivery_reports_parked ": parked._BY_PROVIDER_ID,
    }
    with database.read() as connection:
        for index, statement in looks.items():
            sql = str(statement.compile(database.engine))
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN {sql.replace('?', ':ids')}"), {"ids": "[]"})
            assert any(f"INDEX {index}" in row.detail for row in plan), index


def test_reports_that_wait_for_long_do_not_change_their_time(
    database: Database, inbox: CallbackReceiver
) -> None:
    inbox.receive("report", report("a"))
    move_time(database, tables.delivery_reports, "received_at", timedelta(hours=2))
    came_at = only_row(database, tables.delivery_reports).received_at
    message_id = add_message(database, "unknown", posted_ago=timedelta(hours=3))
    assert adopt(database) == 1
    assert only_row(database, tables.delivery_reports).received_at == came_at
    finished_at = message(database, message_id).finished_at
    assert finished_at - came_at > timedelta(hours=1)
