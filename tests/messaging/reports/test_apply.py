from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise

import pytest

from messaging import statuses
from messaging.callbacks.apply import apply_group
from messaging.callbacks.receive import read_callback
from messaging.callbacks.received import apply_received
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.callback_rows import (
    OTHER_PHONE,
    PHONE,
    add_accepted,
    add_message,
    all_rows,
    at_once,
    message,
    only_row,
    open_inbox,
    report,
)
from utils.settings import Settings


def receive(database: Database, settings: Settings, *bodies: bytes) -> None:
    with open_inbox(database, settings) as inbox:
        for body in bodies:
            inbox.receive("report", body)


def effects(database: Database) -> list[str]:
    return [row.effect for row in all_rows(database, tables.delivery_reports)]


def history(database: Database, message_id: int) -> list[tuple[str, str]]:
    rows = all_rows(database, tables.message_events)
    return [(row.status, row.source) for row in rows if row.message_id == message_id]


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("Success", "delivered"),
        ("success", "delivered"),
        ("Failed", "failed"),
        ("Rejected", "failed"),
        ("AbsentSubscriber", "failed"),
        ("Expired", "expired"),
        ("Sent", "accepted"),
        ("Submitted", "accepted"),
        ("Buffered", "accepted"),
    ],
)
def test_a_word_of_a_report_becomes_our_status(
    database: Database, settings: Settings, word: str, status: str
) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, report("a", word))
    row = message(database, message_id)
    assert row.status == status
    assert (row.finished_at is not None) == (status in statuses.SETTLED)


@pytest.mark.parametrize("current", sorted(statuses.ALL))
@pytest.mark.parametrize("word", ["Success", "Failed", "Expired", "Sent"])
def test_a_message_only_moves_as_its_life_allows(
    database: Database, settings: Settings, current: str, word: str
) -> None:
    meaning = {"Success": "delivered", "Failed": "failed", "Expired": "expired", "Sent": "accepted"}[word]
    message_id = add_message(database, current, "a", reason="before")
    receive(database, settings, report("a", word))
    moves = meaning != current and statuses.may_follow_by_report(current, meaning)
    assert message(database, message_id).status == (meaning if moves else current)
    assert effects(database) == ["moved" if moves else "noted" if meaning == current else "ignored"]
    assert history(database, message_id) == ([(meaning, "report")] if moves else [])
    if not moves:
        assert message(database, message_id).reason == "before"


def test_a_final_success_stays_whatever_comes_later(database: Database, settings: Settings) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, report("a"), report("a", "Failed"), report("a", "Sent"))
    assert message(database, message_id).status == "delivered"
    assert effects(database) == ["moved", "ignored", "ignored"]


def test_reports_in_any_order_end_in_the_same_status(database: Database, settings: Settings) -> None:
    words = ["Sent", "Failed", "Success"]
    ids = [add_accepted(database, f"id-{number}") for number in range(3)]
    for number in range(3):
        turned = words[number:] + words[:number]
        receive(database, settings, *(report(f"id-{number}", word) for word in turned))
    assert [message(database, one).status for one in ids] == ["delivered"] * 3


def test_a_success_clears_the_reason_of_an_earlier_failure(database: Database, settings: Settings) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, report("a", "AbsentSubscriber"))
    assert message(database, message_id).reason == "absent_subscriber"
    receive(database, settings, report("a", "Success"))
    row = message(database, message_id)
    assert (row.status, row.reason) == ("delivered", None)


def test_a_success_has_no_reason_even_where_the_network_left_one(
    database: Database, settings: Settings
) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, report("a", "Success", failureReason="DeliveryFailure"))
    assert message(database, message_id).reason is None


@pytest.mark.parametrize(
    ("word", "failure_reason", "reason"),
    [
        ("Failed", "DeliveryFailure", "delivery_failed"),
        ("Failed", "deliveryfailure", "delivery_failed"),
        ("Rejected", "NotNetworkSubcriber", "not_network_subscriber"),
        ("Rejected", "NotNetworkSubscriber", "not_network_subscriber"),
        ("Failed", "SomethingNew", "delivery_failed"),
        ("Failed", "", "delivery_failed"),
        ("Rejected", "", "rejected_by_network"),
        ("Expired", "", "expired_at_network"),
    ],
)
def test_the_reason_of_a_failure_is_said_in_our_words(
    database: Database, settings: Settings, word: str, failure_reason: str, reason: str
) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, report("a", word, failureReason=failure_reason))
    assert message(database, message_id).reason == reason
    assert only_row(database, tables.delivery_reports).failure_reason == (failure_reason or None)


def test_the_network_is_kept_by_its_code_also_from_a_report_that_moves_nothing(
    database: Database, settings: Settings
) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, report("a", "Sent", networkCode="63902"))
    assert message(database, message_id).network == "63902"
    receive(database, settings, report("a", "Success", networkCode="12345"))
    assert message(database, message_id).network == "63902"


def test_an_unknown_word_is_kept_and_changes_nothing(database: Database, settings: Settings) -> None:
    message_id = add_accepted(database, "a")
    receive(database, settings, report("a", "Teleported", failureReason="New"))
    assert message(database, message_id).status == "accepted"
    row = only_row(database, tables.delivery_reports)
    assert (row.word, row.effect, row.message_id) == ("Teleported", "unknown_word", message_id)
    assert only_row(database, tables.callbacks).outcome == "applied"


def test_a_report_names_the_callback_that_proves_it(database: Database, settings: Settings) -> None:
    add_accepted(database, "a")
    receive(database, settings, report("a", retryCount="3"))
    row = only_row(database, tables.delivery_reports)
    assert row.callback_id == only_row(database, tables.callbacks).id
    assert (row.recipient, row.retry_count) == (PHONE, "3")


def test_a_report_of_a_blacklist_blocks_the_sender_id_that_was_used(
    database: Database, settings: Settings
) -> None:
    add_accepted(database, "a", sender_id="Acme")
    add_accepted(database, "b", phone=OTHER_PHONE)
    for provider_id in ("a", "b"):
        receive(database, settings, report(provider_id, "Rejected", failureReason="UserInBlackList"))
    blocked = {(row.phone, row.sender_id) for row in all_rows(database, tables.suppressions)}
    assert blocked == {(PHONE, "ACME"), (OTHER_PHONE, "AFRICASTKNG")}
    assert [row.reason for row in all_rows(database, tables.messages)] == ["opted_out"] * 2


def test_several_reports_of_one_message_in_one_commit_are_applied_in_turn(
    database: Database, settings: Settings
) -> None:
    message_id = add_accepted(database, "a")
    words = ["Sent", "Failed", "Success", "Expired"]
    with open_inbox(database, settings) as inbox:
        at_once([lambda word=word: inbox.receive("report", report("a", word)) for word in words])
    assert message(database, message_id).status == "delivered"
    assert len(all_rows(database, tables.delivery_reports)) == 4
    told = history(database, message_id)
    steps = [("accepted", told[0][0])] + [(one[0], other[0]) for one, other in pairwise(told)]
    assert all(after in statuses.STEPS[before] for before, after in steps)


def test_an_id_that_was_given_twice_finds_the_message_to_the_reported_number(
    database: Database, settings: Settings
) -> None:
    first = add_accepted(database, "a")
    second = add_accepted(database, "a", phone=OTHER_PHONE)
    receive(database, settings, report("a", phone=OTHER_PHONE))
    assert [message(database, one).status for one in (first, second)] == ["accepted", "delivered"]


def test_a_message_that_only_a_report_tells_of_counts_as_sent(database: Database, settings: Settings) -> None:
    message_id = add_message(database, "unknown", "a")
    receive(database, settings, report("a", "Sent"))
    row = message(database, message_id)
    assert row.status == "accepted"
    assert row.sent_at is not None


def test_a_report_waits_for_whoever_is_moving_its_message(database: Database, settings: Settings) -> None:
    message_id = add_accepted(database, "a")
    with open_inbox(database, settings) as inbox:
        late = threading.Thread(target=inbox.receive, args=("report", report("a", "Failed")))
        with database.write() as connection:
            connection.execute(tables.messages.update().values(status="delivered"))
            late.start()
            late.join(0.3)
            assert late.is_alive()
        late.join(10)
    assert message(database, message_id).status == "delivered"
    assert effects(database) == ["ignored"]
    assert history(database, message_id) == []


def test_groups_with_messages_in_common_do_not_block_each_other(
    database: Database, settings: Settings
) -> None:
    for number in range(40):
        add_accepted(database, f"id-{number}")
    words = ["Sent", "Submitted", "Buffered", "Sent", "Success"]

    def write(numbers: Sequence[int], place: int) -> None:
        for round_number, word in enumerate(words):
            more = {"retryCount": f"{place}-{round_number}"}
            bodies = [report(f"id-{number}", word, **more) for number in numbers]
            with database.write() as connection:
                apply_group(settings, connection, [read_callback("report", body) for body in bodies])
            apply_received(database, settings)

    at_once([lambda: write(range(40), 1), lambda: write(range(39, -1, -1), 2)])
    assert {row.status for row in all_rows(database, tables.messages)} == {"delivered"}
