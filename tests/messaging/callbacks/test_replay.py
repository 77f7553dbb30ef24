from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from messaging.callbacks.receive import LARGEST_BODY_BYTES
from messaging.callbacks.replay import ReplayCounts, replay, retry_unapplied
from messaging.consent import ledger
from messaging.messages import report_effects
from messaging.operations import sweep
from messaging.operations.audit import audit
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.callback_rows import (
    PHONE,
    add_accepted,
    all_rows,
    inbound,
    message,
    move_time,
    only_row,
    open_inbox,
    opt_out,
    report,
)
from tests.support.delivery import Clock
from utils import provider_codes
from utils.settings import Settings

pytest_plugins = ["tests.support.delivery_fixtures"]


def receive(database: Database, settings: Settings, kind: str, *bodies: bytes) -> None:
    with open_inbox(database, settings) as inbox:
        for body in bodies:
            inbox.receive(kind, body)


def teach(monkeypatch: pytest.MonkeyPatch, word: str, status: str) -> None:
    monkeypatch.setitem(provider_codes.REPORT_STATUSES, word.casefold(), status)  # type: ignore[arg-type]


def everything(database: Database) -> list[list[tuple[object, ...]]]:
    all_tables = (
        tables.callbacks,
        tables.inbound_messages,
        tables.messages,
        tables.delivery_reports,
        tables.message_events,
        tables.suppressions,
    )
    with database.read() as connection:
        return [[tuple(row) for row in connection.execute(select(table))] for table in all_tables]


def mark_unapplied(database: Database) -> None:
    with database.write() as connection:
        connection.execute(tables.callbacks.update().values(outcome="unapplied", detail="because"))


def test_a_replay_of_what_took_effect_changes_nothing(database: Database, settings: Settings) -> None:
    add_accepted(database, "a")
    receive(database, settings, "report", report("a", "Sent"), report("a"), report("parked"), b"bad")
    receive(database, settings, "inbound", inbound("hello"), inbound("STOP", "2"))
    receive(database, settings, "opt_out", opt_out(senderId="ACME"))
    before = everything(database)
    assert replay(database, settings) == ReplayCounts(unchanged=6, quarantined=1)
    assert everything(database) == before


def test_a_word_that_was_learned_takes_effect(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, "report", report("a", "Landed"))
    assert replay(database, settings) == ReplayCounts(unchanged=1)
    teach(monkeypatch, "Landed", "delivered")
    assert replay(database, settings) == ReplayCounts(applied=1)
    assert message(database, message_id).status == "delivered"
    assert only_row(database, tables.delivery_reports).effect == report_effects.MOVED
    assert only_row(database, tables.message_events).source == "report"
    assert replay(database, settings) == ReplayCounts(unchanged=1)


def test_a_learned_word_does_not_move_a_message_backward(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, "report", report("a", "Crashed"), report("a", "Success"))
    teach(monkeypatch, "Crashed", "failed")
    assert replay(database, settings) == ReplayCounts(applied=1, unchanged=1)
    assert message(database, message_id).status == "delivered"


@pytest.mark.parametrize("known", [True, False])
def test_a_report_that_could_not_be_applied_is_applied(
    database: Database, settings: Settings, known: bool
) -> None:
    receive(database, settings, "report", report("a"))
    with database.write() as connection:
        connection.execute(tables.delivery_reports.delete())
    mark_unapplied(database)
    move_time(database, tables.callbacks, "received_at", timedelta(hours=1))
    message_id = add_accepted(database, "a") if known else None
    assert replay(database, settings, only_unapplied=True) == ReplayCounts(applied=1)
    row = only_row(database, tables.delivery_reports)
    assert row.message_id == message_id
    assert row.received_at == only_row(database, tables.callbacks).received_at
    assert only_row(database, tables.callbacks).outcome == "applied"
    if message_id is not None:
        assert message(database, message_id).status == "delivered"
    assert replay(database, settings) == ReplayCounts(unchanged=1)


def test_a_text_that_could_not_be_applied_is_answered_once(database: Database, settings: Settings) -> None:
    receive(database, settings, "inbound", inbound("hello"))
    with database.write() as connection:
        connection.execute(tables.messages.delete())
        connection.execute(tables.inbound_messages.delete())
    mark_unapplied(database)
    assert replay(database, settings) == ReplayCounts(applied=1)
    assert replay(database, settings) == ReplayCounts(unchanged=1)
    assert len(all_rows(database, tables.messages)) == 1


def test_an_applied_opt_out_does_not_block_again_who_came_back(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, "opt_out", opt_out())
    with database.write() as connection:
        ledger.lift(connection, PHONE, source="api")
    replay(database, settings)
    assert all_rows(database, tables.suppressions) == []


def test_a_quarantined_body_that_can_be_read_now_is_applied(database: Database, settings: Settings) -> None:
    receive(database, settings, "opt_out", opt_out())
    with database.write() as connection:
        ledger.lift(connection, PHONE, source="api")
        connection.execute(tables.callbacks.update().values(outcome="quarantined", detail="was not read"))
    assert replay(database, settings) == ReplayCounts(applied=1)
    assert only_row(database, tables.suppressions).phone == PHONE
    assert only_row(database, tables.callbacks).detail is None


def test_a_cut_body_stays_quarantined(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("inbound", inbound("x" * (LARGEST_BODY_BYTES - 60)), truncated=True)
    assert replay(database, settings) == ReplayCounts(quarantined=1)
    assert all_rows(database, tables.inbound_messages) == []


def test_an_erased_body_is_left_alone(database: Database, settings: Settings) -> None:
    receive(database, settings, "inbound", inbound("hello"))
    with database.write() as connection:
        connection.execute(tables.callbacks.update().values(body=b"", outcome="unapplied"))
    assert replay(database, settings) == ReplayCounts(unchanged=1)


def test_what_still_cannot_be_applied_says_so(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(database, settings, "report", report("a"))
    receive(database, settings, "inbound", inbound("hello"))
    with database.write() as connection:
        connection.execute(tables.delivery_reports.delete())
    mark_unapplied(database)

    def break_down(*_arguments: object, **_more: object) -> None:
        raise LookupError("still broken")

    monkeypatch.setattr("messaging.reports.apply.settle", break_down)
    monkeypatch.setattr("messaging.callbacks.apply.receive_texts", break_down)
    add_accepted(database, "a")
    assert replay(database, settings) == ReplayCounts(unapplied=2)
    assert {row.detail for row in all_rows(database, tables.callbacks)} == {"LookupError: still broken"}
    assert all_rows(database, tables.delivery_reports) == []


def forget_texts(database: Database) -> None:
    """As if the texts had been journaled and a fault had kept them from taking effect."""
    with database.write() as connection:
        connection.execute(tables.messages.delete())
        connection.execute(tables.inbound_messages.delete())
    mark_unapplied(database)


def test_the_sweep_applies_what_a_passing_fault_kept_from_taking_effect(
    database: Database, settings: Settings, clock: Clock
) -> None:
    receive(database, settings, "inbound", inbound("hello"))
    forget_texts(database)
    assert sweep.sweep(database, settings).reapplied == 0
    clock.step(minutes=1)
    assert sweep.sweep(database, settings).reapplied == 1
    assert only_row(database, tables.callbacks).outcome == "applied"
    assert sweep.sweep(database, settings).reapplied == 0
    assert len(all_rows(database, tables.messages)) == 1


def test_a_body_that_keeps_failing_is_tried_less_and_less_for_a_day_and_stays_shown(
    database: Database, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(database, settings, "inbound", inbound("hello"))
    forget_texts(database)
    tried_at: list[int] = []
    minute = 0

    def break_down(*_arguments: object) -> None:
        tried_at.append(minute)
        raise LookupError("still broken")

    monkeypatch.setattr("messaging.callbacks.apply.receive_texts", break_down)
    for then in [*range(70), 127, 128, 129, 256, 300, 512, 1000, 1024, 1439, 1500, 2048, 4096]:
        clock.step(minutes=then - minute)
        minute = then
        assert retry_unapplied(database, settings) == 0
    assert tried_at == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert only_row(database, tables.callbacks).outcome == "unapplied"
    assert [problem.kind for problem in audit(database).problems] == ["unapplied_callback"]


def test_a_replay_may_be_narrowed_by_id_by_time_and_to_the_unapplied(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, "report", *(report(f"id-{number}") for number in range(4)))
    ids = [row.id for row in all_rows(database, tables.callbacks)]
    assert replay(database, settings, ids=ids[:2]) == ReplayCounts(unchanged=2)
    assert replay(database, settings, ids=[]) == ReplayCounts()
    assert replay(database, settings, since=utc_now() + timedelta(hours=1)) == ReplayCounts()
    assert replay(database, settings, since=utc_now() - timedelta(hours=1)) == ReplayCounts(unchanged=4)
    assert replay(database, settings, only_unapplied=True) == ReplayCounts()


def test_a_long_journal_is_replayed_in_chunks(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messaging.callbacks.replay.CHUNK", 3)
    receive(database, settings, "report", *(report(f"id-{number}") for number in range(10)))
    assert replay(database, settings) == ReplayCounts(unchanged=10)
