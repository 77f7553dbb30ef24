"""The worker's part: what is journaled as received takes effect."""

from __future__ import annotations

import itertools
import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import OperationalError

from messaging.callbacks import journal, received
from messaging.callbacks.receive import CallbackReceiver
from messaging.callbacks.received import apply_received, oldest_wait
from messaging.callbacks.replay import ReplayCounts, replay
from messaging.operations import sweep
from messaging.reports import adoption, find
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.callback_rows import (
    OTHER_PHONE,
    PHONE,
    add_accepted,
    add_message,
    all_rows,
    counting_statements,
    inbound,
    message,
    move_time,
    only_row,
    opt_out,
    report,
)
from tests.support.poison import Poison
from utils.settings import Settings


@pytest.fixture
def inbox(database: Database, settings: Settings) -> Any:
    """As the web process has it: nobody applies what it only journals."""
    inbox = CallbackReceiver(database, settings)
    yield inbox
    inbox.stop()


def outcomes(database: Database) -> list[str]:
    return [row.outcome for row in all_rows(database, tables.callbacks)]


def test_a_report_is_journaled_before_the_answer_and_applied_after_it(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    message_id = add_accepted(database, "a")
    inbox.receive("report", report("a"))
    assert outcomes(database) == ["received"]
    assert message(database, message_id).status == "accepted"
    assert apply_received(database, settings) == 1
    assert outcomes(database) == ["applied"]
    row = message(database, message_id)
    assert (row.status, row.finished_at) == ("delivered", only_row(database, tables.callbacks).received_at)
    assert apply_received(database, settings) == 0


def test_what_blocks_somebody_and_what_somebody_wrote_count_in_the_commit_that_journals_them(
    database: Database, inbox: CallbackReceiver
) -> None:
    message_id = add_accepted(database, "a", sender_id="Acme")
    inbox.receive("report", report("a", "Rejected", failureReason="UserInBlackList"))
    inbox.receive("opt_out", opt_out(OTHER_PHONE))
    inbox.receive("inbound", inbound("hello"))
    assert outcomes(database) == ["applied"] * 3
    assert message(database, message_id).status == "failed"
    blocked = {(row.phone, row.sender_id) for row in all_rows(database, tables.suppressions)}
    assert blocked == {(PHONE, "ACME"), (OTHER_PHONE, "")}
    assert len(all_rows(database, tables.inbound_messages)) == 1


def test_reports_are_applied_in_the_order_of_the_journals_time(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    """Their ids may say otherwise: two web processes take theirs before either commits."""
    message_id = add_accepted(database, "a")
    inbox.receive("report", report("a", "Success"))
    inbox.receive("report", report("a", "Failed"))
    with database.write() as connection:
        first = select(func.min(tables.callbacks.c.id)).scalar_subquery()
        later = {"received_at": utc_now() + timedelta(minutes=1)}
        connection.execute(tables.callbacks.update().where(tables.callbacks.c.id == first).values(**later))
    apply_received(database, settings)
    rows = [row for row in all_rows(database, tables.message_events) if row.message_id == message_id]
    assert [row.status for row in rows] == ["failed", "delivered"]


def test_a_repeated_body_that_is_not_applied_yet_takes_effect_once(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    add_accepted(database, "a")
    for _ in range(3):
        inbox.receive("report", report("a"))
    assert apply_received(database, settings) == 1
    inbox.receive("report", report("a"))
    assert apply_received(database, settings) == 0
    assert only_row(database, tables.callbacks).count == 4
    assert len(all_rows(database, tables.delivery_reports)) == 1


def test_a_body_that_cannot_be_applied_takes_no_neighbour_with_it(
    database: Database, settings: Settings, inbox: CallbackReceiver, poison: Poison
) -> None:
    ids = [add_accepted(database, f"good-{number}") for number in range(20)]
    for number in range(20):
        if number in (0, 7, 8):
            inbox.receive("report", report(f"bad-{number}", Poison.WORD))
        inbox.receive("report", report(f"good-{number}"))
    assert apply_received(database, settings) == 20
    assert {message(database, one).status for one in ids} == {"delivered"}
    bad = [row for row in all_rows(database, tables.callbacks) if row.outcome == "unapplied"]
    assert [row.detail for row in bad] == [row.detail for row in bad if "poisoned" in row.detail]
    assert len(bad) == 3
    assert apply_received(database, settings) == 0
    poison.cure()
    assert replay(database, settings, only_unapplied=True) == ReplayCounts(applied=3)


def test_the_log_tells_of_each_move_once_however_often_its_group_was_tried(
    database: Database,
    settings: Settings,
    inbox: CallbackReceiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("what comes after the moves cannot be done")

    monkeypatch.setattr(adoption, "adopt", fail)
    ids = [add_accepted(database, f"good-{number}") for number in range(5)]
    inbox.receive("report", report("nobody's"))
    for number in range(5):
        inbox.receive("report", report(f"good-{number}"))
    caplog.set_level(logging.INFO)
    assert apply_received(database, settings) == 5
    told = [one.__dict__["message_ids"] for one in caplog.records if "reports moved" in one.getMessage()]
    assert sorted(itertools.chain(*told)) == ids


@pytest.mark.usefixtures("poison")
def test_trouble_of_the_store_is_waited_for_but_not_for_ever(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    """It passes, mostly. A body that brings it about each time must not keep the others, and the sweep, waiting."""
    ids = [add_accepted(database, f"good-{number}") for number in range(3)]
    inbox.receive("report", report("bad", Poison.TROUBLE))
    for number in range(3):
        inbox.receive("report", report(f"good-{number}"))
    with pytest.raises(OperationalError):
        apply_received(database, settings)
    assert outcomes(database) == ["received"] * 4
    move_time(database, tables.callbacks, "received_at", received.TRIED_TOGETHER_FOR)
    assert apply_received(database, settings) == 3
    assert outcomes(database) == ["unapplied", "applied", "applied", "applied"]
    assert {message(database, one).status for one in ids} == {"delivered"}


def test_a_body_that_is_no_longer_readable_is_quarantined(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    """Another release may read the same bytes in another way."""
    inbox.receive("report", report("a"))
    inbox.receive("report", report("b"))
    with database.write() as connection:
        first = select(tables.callbacks.c.id).limit(1).scalar_subquery()
        connection.execute(tables.callbacks.update().where(tables.callbacks.c.id == first).values(body=b"x"))
    assert apply_received(database, settings) == 1
    rows = all_rows(database, tables.callbacks)
    assert [(row.outcome, row.detail) for row in rows] == [
        ("quarantined", "the field id is missing"),
        ("applied", None),
    ]


def test_a_replay_applies_what_is_only_received(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    message_id = add_accepted(database, "a")
    inbox.receive("report", report("a"))
    assert replay(database, settings) == ReplayCounts(applied=1)
    assert message(database, message_id).status == "delivered"
    assert apply_received(database, settings) == 0
    assert len(all_rows(database, tables.delivery_reports)) == 1


def test_a_group_takes_as_many_statements_as_one_report(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    """Four looks, then the statuses, the history, the reports and the journal, and a savepoint."""
    for number in range(61):
        add_accepted(database, f"id-{number}")
    counts = []
    for wanted in (range(2), range(2, 61)):
        for number in wanted:
            inbox.receive("report", report(f"id-{number}"))
        with counting_statements(database) as statements:
            apply_received(database, settings)
        counts.append(len([one for one in statements if not one.startswith(("BEGIN", "SAVE", "RELEASE"))]))
    assert counts[0] == counts[1]
    assert counts[0] <= 10


def test_what_comes_while_reports_are_applied_waits_for_the_next_look(
    database: Database, settings: Settings, inbox: CallbackReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a sweep, which applies first, begins also where they come faster than they are applied."""
    monkeypatch.setattr(received, "GROUP", 2)
    for number in range(5):
        inbox.receive("report", report(f"id-{number}"))
    arriving = iter(range(100, 200))

    def one_more(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "callbacks.body" in statement:
            inbox.receive("report", report(f"id-{next(arriving)}"))

    event.listen(database.engine, "before_cursor_execute", one_more)
    try:
        # The five, and what came by the time of the first look.
        assert apply_received(database, settings) == 6
    finally:
        event.remove(database.engine, "before_cursor_execute", one_more)


def test_a_worker_that_is_to_stop_ends_between_two_groups(
    database: Database, settings: Settings, inbox: CallbackReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "GROUP", 2)
    for number in range(5):
        inbox.receive("report", report(f"id-{number}"))
    asked = iter([True])
    assert apply_received(database, settings, lambda: next(asked)) == 2
    assert apply_received(database, settings) == 3


def test_one_applier_at_a_time(database: Database, settings: Settings, inbox: CallbackReceiver) -> None:
    message_id = add_accepted(database, "a")
    inbox.receive("report", report("a"))
    second = threading.Thread(target=apply_received, args=(database, settings))
    with database.write() as connection:
        find.take_turn(connection)
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert message(database, message_id).status == "accepted"
    second.join(10)
    assert message(database, message_id).status == "delivered"


def test_two_appliers_at_once_apply_each_report_once(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    """Both have read the same group before the first one commits."""
    for number in range(20):
        add_accepted(database, f"id-{number}")
        inbox.receive("report", report(f"id-{number}"))
    barrier = threading.Barrier(2)
    done: list[int] = []

    def wait_for_the_other(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "callbacks.body" in statement:
            barrier.wait(10)

    appliers = [
        threading.Thread(target=lambda: done.append(apply_received(database, settings))) for _ in range(2)
    ]
    event.listen(database.engine, "after_cursor_execute", wait_for_the_other)
    try:
        for applier in appliers:
            applier.start()
        for applier in appliers:
            applier.join(30)
    finally:
        event.remove(database.engine, "after_cursor_execute", wait_for_the_other)
    assert sorted(done) == [0, 20]
    assert len(all_rows(database, tables.delivery_reports)) == 20


def test_a_history_never_goes_back_in_time(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    """The report came before the answer was recorded, and is applied after it."""
    message_id = add_message(database, "sending")
    inbox.receive("report", report("a"))
    recorded_at = utc_now() + timedelta(seconds=5)
    with database.write() as connection:
        accepted = {"status": "accepted", "provider_message_id": "a", "sent_at": recorded_at}
        row = tables.messages.update().where(tables.messages.c.id == message_id)
        connection.execute(row.values(**accepted))
    apply_received(database, settings)
    row = message(database, message_id)
    assert (row.status, row.finished_at) == ("delivered", recorded_at)
    assert only_row(database, tables.message_events).at == recorded_at


def test_a_report_that_waited_is_as_old_as_its_callback(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    message_id = add_message(database, "accepted", "a", sent_at=utc_now() - timedelta(hours=3))
    inbox.receive("report", report("a"))
    move_time(database, tables.callbacks, "received_at", timedelta(hours=2))
    with database.read() as connection:
        waited = oldest_wait(connection)
    assert waited is not None
    assert timedelta(hours=2) < waited < timedelta(hours=2, minutes=1)
    apply_received(database, settings)
    came_at = only_row(database, tables.callbacks).received_at
    assert message(database, message_id).finished_at == came_at
    assert only_row(database, tables.delivery_reports).received_at == came_at
    with database.read() as connection:
        assert oldest_wait(connection) is None


def test_a_sweep_applies_what_is_received_before_it_decides_anything(
    database: Database, settings: Settings, inbox: CallbackReceiver
) -> None:
    message_id = add_message(database, "accepted", "a", sent_at=utc_now() - timedelta(hours=80))
    inbox.receive("report", report("a"))
    assert sweep.sweep(database, settings).no_report == 0
    assert message(database, message_id).status == "delivered"


def test_the_oldest_are_found_by_an_index_of_their_own(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL plans by statistics, which a small table does not have")
    with database.read() as connection:
        for statement in (received._OLDEST.limit(5), received._WAITING):
            sql = statement.compile(database.engine, compile_kwargs={"literal_binds": True})
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN {sql}")).all()
            assert any("ix_callbacks_received" in row.detail for row in plan)


WORDS = st.sampled_from(["Sent", "Success", "Failed", "Expired", "Rejected", "Teleported"])
REPORTS = st.lists(
    st.tuples(
        st.integers(0, 5),
        WORDS,
        st.sampled_from(["", "63902", "1"]),
        st.sampled_from(["", "AbsentSubscriber"]),
    ),
    max_size=12,
)
STARTS = st.lists(
    st.sampled_from(["queued", "sending", "accepted", "unknown", "no_report", "failed"]),
    min_size=4,
    max_size=4,
)
SERIALS = itertools.count()


def apply_to_new_messages(
    database: Database,
    settings: Settings,
    inbox: CallbackReceiver,
    starts: list[str],
    said: list[tuple[int, str, str, str]],
    together: bool,
) -> list[object]:
    """What became of four messages with an id, of the reports, and of a message that may adopt those of id 5."""
    serial = next(SERIALS)
    phones = [f"+2547{serial:07d}{number}" for number in range(6)]
    ids = [
        add_message(database, status, f"{serial}-{number}", phones[number])
        for number, status in enumerate(starts)
    ]
    lost = add_message(database, "unknown", phone=phones[5])
    for place, (number, word, network, why) in enumerate(said):
        more = {"networkCode": network, "failureReason": why, "retryCount": str(place)}
        inbox.receive("report", report(f"{serial}-{number}", word, phones[number], **more))
        if not together:
            apply_received(database, settings)
    apply_received(database, settings)
    rows = [message(database, one) for one in ids]
    steps = [row for row in all_rows(database, tables.message_events) if row.message_id in ids]
    reports = [
        row
        for row in all_rows(database, tables.delivery_reports)
        if row.provider_message_id in [f"{serial}-{number}" for number in range(5)]
    ]
    return [
        [(row.status, row.reason, row.network, row.sent_at is None, row.finished_at is None) for row in rows],
        [[(row.status, row.source, row.detail) for row in steps if row.message_id == one] for one in ids],
        [(row.word, row.effect, row.retry_count) for row in reports],
        message(database, lost).status,
    ]


@given(starts=STARTS, said=REPORTS)
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_group_applied_together_gives_the_same_as_one_by_one(
    database: Database,
    settings: Settings,
    inbox: CallbackReceiver,
    starts: list[str],
    said: list[tuple[int, str, str, str]],
) -> None:
    one_by_one, together = (
        apply_to_new_messages(database, settings, inbox, starts, said, is_together)
        for is_together in (False, True)
    )
    assert together == one_by_one


def test_a_report_that_is_being_parked_while_its_message_becomes_unknown_is_adopted(
    database: Database, settings: Settings, inbox: CallbackReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The applier has looked for a message in doubt, found none, and has not committed yet."""
    message_id = add_message(database, "sending")
    inbox.receive("report", report("a"))
    has_parked, may_commit = threading.Event(), threading.Event()
    set_outcome = journal.set_outcome

    def pause_before_the_commit(*given: Any) -> None:
        has_parked.set()
        may_commit.wait(10)
        set_outcome(*given)

    monkeypatch.setattr(journal, "set_outcome", pause_before_the_commit)
    adopted: list[int] = []

    def lose_and_adopt() -> None:
        with database.write() as connection:
            row = tables.messages.update().where(tables.messages.c.id == message_id)
            connection.execute(row.values(status="unknown"))
        adopted.append(adoption.adopt_by_number(database))

    applier = threading.Thread(target=apply_received, args=(database, settings))
    loser = threading.Thread(target=lose_and_adopt)
    try:
        applier.start()
        assert has_parked.wait(10)
        loser.start()
        loser.join(0.5)
        assert loser.is_alive()
    finally:
        may_commit.set()
        applier.join(10)
        loser.join(10)
    assert adopted == [1]
    assert message(database, message_id).status == "delivered"
