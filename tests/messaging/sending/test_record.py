from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Row, insert

from messaging import statuses
from messaging.batches.progress import get_batch
from messaging.batches.upkeep import BatchUpkeep
from messaging.consent import ledger
from messaging.messages import report_effects, unknown_outcomes
from messaging.sending import circuit_breaker, pauses, record
from messaging.sending.sender import write_outcome
from messaging.sending.start_post import Posting
from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.retrying import TIMEOUT_SECONDS
from tests.support.callback_rows import open_inbox, report
from tests.support.delivery import (
    LEASE,
    Clock,
    attempt,
    begin_posting,
    change,
    claim,
    claim_one,
    every,
    history,
    in_write,
    live_settings,
    message,
    opt_out,
    phone,
    phones,
    post,
    post_to,
    queue,
    queue_batch,
    statuses_of,
    sweep_leases,
)
from tests.support.fake_provider import FakeProvider
from tests.support.simulator_process import SimulatorProcess
from tests.support.stack import free_port
from utils import provider_transport
from utils.errors import ProviderError, ProviderUnreachable
from utils.money import Money
from utils.provider_answers import RecipientAnswer, SendAnswer
from utils.provider_transport import LEAST_SECONDS
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

JSON = "application/json"


def answer_of(*entries: dict[str, Any], said: str = "Sent") -> tuple[int, str, str]:
    return 201, JSON, json.dumps({"SMSMessageData": {"Message": said, "Recipients": list(entries)}})


def accepted(number: str, message_id: str = "ATXid_1", **values: Any) -> dict[str, Any]:
    entry = {"number": number, "statusCode": 101, "status": "Success", "cost": "KES 0.8000"}
    return entry | {"messageId": message_id} | values


def exchange(database: Database, client: ProviderClient, posting: Posting) -> SendAnswer | ProviderError:
    return post(database, client, posting, 5)


def sent(
    database: Database, client: ProviderClient, *recipients: str, **values: Any
) -> tuple[Posting, list[Row[Any]]]:
    """The posting and its messages after the exchange was recorded."""
    posting = post_to(database, *recipients, **values)
    exchange(database, client, posting)
    return posting, [message(database, one) for one in posting.claim.recipients.values()]


def paused(database: Database) -> dict[str, str]:
    return {row.name: row.reason for row in every(database, tables.pauses)}


def test_an_accepted_text_keeps_ats_id_cost_and_parts(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.script = [answer_of(accepted(phone(1), "ATXid_9", messageParts=2))]
    posting, (row,) = sent(database, client, phone(1))
    assert (row.status, row.reason, row.provider_message_id) == ("accepted", None, "ATXid_9")
    assert (row.cost_text, row.cost_micros, row.cost_currency, row.parts) == ("KES 0.8000", 800_000, "KES", 2)
    assert row.sent_at >= posting.posting_at
    assert row.finished_at is None
    assert history(database, row.id) == [("accepted", "provider")]


def test_a_recorded_attempt_says_what_at_said(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.script = [answer_of(accepted(phone(1)), said="Sent to 1/1 Total Cost: KES 0.8000")]
    posting, _ = sent(database, client, phone(1))
    row = attempt(database, posting.claim.attempt_id)
    assert (row.state, row.outcome, row.http_status) == ("recorded", "answered", 201)
    assert row.provider_message == "Sent to 1/1 Total Cost: KES 0.8000"
    assert row.finished_at is not None
    assert row.answer is None


@pytest.mark.parametrize(
    ("cost", "micros", "currency"),
    [
        ("0", 0, None),
        ("KES 0.8000", 800_000, "KES"),
        ("UGX -14.5731", -14_573_100, "UGX"),
        ("a few shillings", None, None),
        (None, None, None),
    ],
)
def test_a_cost_is_kept_as_at_wrote_it_and_counted_where_it_can_be(
    database: Database,
    fake_at: FakeProvider,
    client: ProviderClient,
    cost: str | None,
    micros: int | None,
    currency: str | None,
) -> None:
    fake_at.script = [answer_of(accepted(phone(1), cost=cost))]
    _, (row,) = sent(database, client, phone(1))
    assert (row.cost_text, row.cost_micros, row.cost_currency) == (cost, micros, currency)


def test_the_word_none_is_no_id(database: Database, fake_at: FakeProvider, client: ProviderClient) -> None:
    fake_at.script = [answer_of(accepted(phone(1), "None"))]
    _, (row,) = sent(database, client, phone(1))
    assert (row.status, row.provider_message_id) == ("accepted", None)


UNSTORABLE = [
    {"status": "Success\0"},
    {"messageId": "ATXid_\0_1"},
    {"messageId": "ATXid_\ud800"},
    {"cost": "KES\0 0.8"},
    {"cost": "KES \udfff"},
    {"cost": "KES 999999999999999999.0"},
    {"messageParts": 40_000},
    {"messageParts": 10**30},
    {"messageParts": -(10**30)},
    {"cost": {"amount": 10**30}},
    {"said": "Sent\0 to 2/2"},
    {"said": "Sent \ud800 to 2/2"},
]


@pytest.mark.parametrize("odd", UNSTORABLE, ids=repr)
def test_nothing_that_at_may_write_keeps_an_acceptance_from_being_recorded(
    database: Database, fake_at: FakeProvider, client: ProviderClient, odd: dict[str, Any]
) -> None:
    """One value that the store refuses would leave every recipient of the POST unknown."""
    said = odd.get("said", "Sent")
    fake_at.script = [answer_of(accepted(phone(1), **odd), accepted(phone(2), "ATXid_2"), said=said)]
    _, rows = sent(database, client, phone(1), phone(2))
    assert [row.status for row in rows] == ["accepted", "accepted"]


def test_a_refusal_in_bytes_that_no_store_keeps_is_recorded(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.script = [(400, "text/plain", "no \0 such field")]
    _, (row,) = sent(database, client, phone(1))
    assert (row.status, row.reason) == ("rejected", "http_400")


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_text_that_at_holds_is_found_by_the_id_it_was_given(
    database: Database, settings: Settings, fake_at: FakeProvider, client: ProviderClient, comes_first: bool
) -> None:
    """Two unknown texts to one number: by number alone nobody could tell whose report it is."""
    held = {"statusCode": 401, "status": "RiskHold"}
    ids = []
    with open_inbox(database, settings) as inbox:
        if comes_first:
            inbox.receive("report", report("ATXid_2", phone=phone(1)))
        for provider_id in ("ATXid_1", "ATXid_2"):
            fake_at.script = [answer_of(accepted(phone(1), provider_id, **held))]
            _, (row,) = sent(database, client, phone(1))
            ids.append(row.id)
        if not comes_first:
            inbox.receive("report", report("ATXid_2", phone=phone(1)))
    found = [message(database, one) for one in ids]
    assert [(row.status, row.provider_message_id) for row in found] == [
        ("unknown", "ATXid_1"),
        ("delivered", "ATXid_2"),
    ]


@dataclass(frozen=True)
class Refusal:
    code: int
    status: str
    reason: str
    tries: int = 0
    pauses: str | None = None
    opts_out: bool = False


REFUSALS = [
    Refusal(401, "unknown", "risk_hold"),
    Refusal(402, "queued", "invalid_sender_id", pauses="sender:ACME"),
    Refusal(403, "rejected", "invalid_phone"),
    Refusal(404, "rejected", "unsupported_number_type"),
    Refusal(405, "queued", "insufficient_balance", pauses="account"),
    Refusal(406, "rejected", "opted_out", opts_out=True),
    Refusal(407, "rejected", "no_route"),
    Refusal(409, "queued", "do_not_disturb", tries=1),
    Refusal(500, "unknown", "provider_error"),
    Refusal(501, "unknown", "gateway_error"),
    Refusal(502, "rejected", "rejected_by_gateway"),
    Refusal(799, "unknown", "unrecognised_status"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: str(one.code))
def test_each_code_settles_its_recipient_and_not_its_neighbours(
    database: Database, fake_at: FakeProvider, client: ProviderClient, refusal: Refusal
) -> None:
    fake_at.refused[phone(2)] = (refusal.code, "Word")
    _, (first, refused, last) = sent(database, client, *phones(3), sender_id="ACME")
    assert (first.status, last.status) == ("accepted", "accepted")
    assert (refused.status, refused.reason, refused.tries) == (refusal.status, refusal.reason, refusal.tries)
    assert refused.provider_message_id is None
    assert (refused.finished_at is not None) == (refusal.status == "rejected")
    assert (refused.attempt_id is None) == (refusal.status == "queued")
    assert history(database, refused.id) == [(refusal.status, "provider")]
    assert paused(database) == ({refusal.pauses: refusal.reason} if refusal.pauses else {})
    with database.read() as connection:
        blocked = ledger.suppressed(connection, phones(3), "ACME")
    assert blocked == ({phone(2)} if refusal.opts_out else set())


def test_a_406_counts_for_its_sender_only_and_names_its_attempt(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.refused[phone(1)] = (406, "UserInBlacklist")
    posting, _ = sent(database, client, phone(1), sender_id="ACME")
    with database.read() as connection:
        assert ledger.suppressed(connection, [phone(1)], "OTHER") == set()
        (entry,) = ledger.entries(connection, phone(1))
    assert (entry.source, entry.scope, entry.sender_id) == ("refused_406", "sender", "ACME")
    assert entry.detail == f"attempt {posting.claim.attempt_id}"


def test_a_409_is_due_again_in_the_morning_of_its_recipient(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.refused[phone(1)] = (409, "DoNotDisturbRejection")
    posting, (row,) = sent(database, client, phone(1))
    assert posting.posting_at < row.due_at <= posting.posting_at + timedelta(days=1, minutes=1)
    # Eight in Nairobi.
    assert (row.due_at.hour, row.due_at.minute, row.due_at.second) == (5, 1, 0)
    assert claim(database) == []


def test_a_409_of_the_whole_post_is_the_same_curfew(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.script = [(409, "text/plain", "Do not disturb")]
    _, rows = sent(database, client, *phones(2))
    assert {(row.status, row.reason, row.due_at.hour, row.due_at.minute) for row in rows} == {
        ("queued", "do_not_disturb", 5, 1)
    }


def test_a_recipient_missing_from_the_answer_is_unknown(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.script = [answer_of(accepted(phone(1)))]
    _, (there, missing) = sent(database, client, phone(1), phone(2))
    assert there.status == "accepted"
    assert (missing.status, missing.reason) == ("unknown", "missing_from_answer")
    assert missing.finished_at is None


def test_an_answer_in_another_order_reaches_the_right_messages(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    entries = [accepted(number, f"ATXid_{number}") for number in reversed(phones(4))]
    fake_at.script = [answer_of(*entries)]
    _, rows = sent(database, client, *phones(4))
    assert [row.provider_message_id for row in rows] == [f"ATXid_{number}" for number in phones(4)]


@dataclass(frozen=True)
class Failure:
    """Of a whole POST: what AT answers, and what becomes of its messages, the road and the pauses."""

    name: str
    script: tuple[int, str, str]
    status: str
    reason: str
    outcome: str
    tries: int = 0
    pauses: str | None = None
    narrows: bool = False


FAILURES = [
    Failure("429", (429, "text/plain", "slow"), "queued", "throttled", "not_sent", tries=1),
    Failure("400", (400, "text/plain", "missing"), "rejected", "http_400", "not_sent"),
    Failure(
        "401",
        (401, "text/plain", "The supplied authentication is invalid"),
        "queued",
        "credentials_refused",
        "not_sent",
        pauses="account",
    ),
    Failure(
        "invalid sender",
        (201, JSON, '{"SMSMessageData": {"Message": "InvalidSenderId", "Recipients": []}}'),
        "queued",
        "invalid_sender_id",
        "not_sent",
        pauses="sender:ACME",
    ),
    Failure(
        "no balance for all",
        (201, JSON, '{"SMSMessageData": {"Message": "InsufficientBalance", "Recipients": []}}'),
        "queued",
        "insufficient_balance",
        "not_sent",
        pauses="account",
    ),
    Failure(
        "nobody taken",
        (201, JSON, '{"SMSMessageData": {"Message": "Sent to 0/2", "Recipients": []}}'),
        "rejected",
        "no_recipient_accepted",
        "not_sent",
    ),
    Failure("500", (500, "text/plain", "oops"), "unknown", "http_500", "unknown", narrows=True),
    Failure("503", (503, "text/html", "<p>busy"), "unknown", "http_503", "unknown", narrows=True),
    Failure("html", (200, "text/html", "<p>ok"), "unknown", "unreadable_answer", "unknown", narrows=True),
    Failure("cut off", (201, JSON, '{"SMSMess'), "unknown", "unreadable_answer", "unknown", narrows=True),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda one: one.name)
def test_each_failure_of_a_post_settles_all_of_it(
    database: Database, fake_at: FakeProvider, client: ProviderClient, failure: Failure
) -> None:
    fake_at.script = [failure.script]
    posting, rows = sent(database, client, *phones(2), sender_id="ACME")
    assert {(row.status, row.reason, row.tries) for row in rows} == {
        (failure.status, failure.reason, failure.tries)
    }
    closed = attempt(database, posting.claim.attempt_id)
    assert (closed.state, closed.outcome, closed.reason) == ("recorded", failure.outcome, failure.reason)
    assert closed.http_status == failure.script[0]
    assert paused(database) == ({failure.pauses: failure.reason} if failure.pauses else {})
    assert bool(in_write(database, circuit_breaker.current).step) is failure.narrows
    assert [history(database, row.id) for row in rows] == [[(failure.status, "provider")]] * 2


def test_a_post_that_reached_nobody_is_tried_again_later(database: Database, database_url: str) -> None:
    settings = live_settings(database_url, f"http://127.0.0.1:{free_port()}")
    client = ProviderClient.from_settings(settings)
    posting, (row,) = sent(database, client, phone(1))
    client.close()
    assert (row.status, row.reason, row.tries) == ("queued", "connection_failed", 1)
    assert timedelta(seconds=2) < row.due_at - posting.posting_at < timedelta(seconds=30)
    assert attempt(database, posting.claim.attempt_id).outcome == "not_sent"


@pytest.mark.parametrize("fault", ["reset_after_accept", "reset_before_accept", "status_5xx_after_accept"])
def test_a_post_whose_answer_was_lost_is_unknown_whether_at_took_it_or_not(
    database: Database, simulator: SimulatorProcess, simulator_client: ProviderClient, fault: str
) -> None:
    simulator.fault(**{fault: True})
    _, (row,) = sent(database, simulator_client, phone(1))
    assert row.status == "unknown"
    assert claim(database) == []
    assert len(simulator.ledger(phone(1))) == (0 if fault == "reset_before_accept" else 1)


def test_a_hanging_answer_is_unknown_after_the_deadline(
    database: Database, simulator: SimulatorProcess, simulator_client: ProviderClient
) -> None:
    simulator.fault(hang_after_accept=30)
    posting = post_to(database, phone(1))
    outcome = post(database, simulator_client, posting, 1.0)
    assert isinstance(outcome, ProviderError)
    assert (outcome.outcome, outcome.reason) == ("unknown", "timed_out")
    assert message(database, posting.claim.recipients[phone(1)]).status == "unknown"
    assert len(simulator.ledger(phone(1))) == 1


def test_what_was_certainly_not_sent_is_given_up_after_a_day_of_tries(
    database: Database, fake_at: FakeProvider, client: ProviderClient, clock: Clock
) -> None:
    (one,) = queue(database, phone(1))
    clock.step(hours=25)
    change(database, tables.messages, one, tries=29)
    fake_at.script = [(429, "text/plain", "slow")]
    exchange(database, client, begin_posting(database, claim_one(database)))
    row = message(database, one)
    assert (row.status, row.reason) == ("failed", "throttled")
    assert row.finished_at is not None


def test_a_text_written_long_before_its_time_is_tried_again(
    database: Database, fake_at: FakeProvider, client: ProviderClient, clock: Clock
) -> None:
    (one,) = queue(database, phone(1))
    clock.step(days=7)
    fake_at.script = [(429, "text/plain", "slow")]
    exchange(database, client, begin_posting(database, claim_one(database)))
    assert (message(database, one).status, message(database, one).tries) == ("queued", 1)


def test_a_pause_costs_no_try_and_never_ends_in_failed(
    database: Database, fake_at: FakeProvider, client: ProviderClient, clock: Clock
) -> None:
    (one,) = queue(database, phone(1))
    change(database, tables.messages, one, tries=200)
    clock.step(days=7)
    fake_at.script = [(401, "text/plain", "bad key")]
    exchange(database, client, begin_posting(database, claim_one(database)))
    assert (message(database, one).status, message(database, one).tries) == ("queued", 200)


@pytest.mark.parametrize(
    ("on_unknown", "status", "reason"),
    [("hold", "unknown", "http_500"), ("fail", "unknown", "given_up"), ("resend", "queued", "http_500")],
)
def test_the_sender_of_a_text_decides_what_an_unknown_outcome_means(
    database: Database,
    fake_at: FakeProvider,
    client: ProviderClient,
    on_unknown: str,
    status: str,
    reason: str,
) -> None:
    fake_at.script = [(500, "text/plain", "oops")]
    _, (row,) = sent(database, client, phone(1), on_unknown=on_unknown)
    assert (row.status, row.reason) == (status, reason)
    assert row.unknown_resends == (on_unknown == "resend")


def test_a_text_is_sent_again_after_an_unknown_outcome_only_once(
    database: Database, fake_at: FakeProvider, client: ProviderClient, clock: Clock
) -> None:
    fake_at.script = [(500, "text/plain", "oops")] * 2
    _, (row,) = sent(database, client, phone(1), on_unknown="resend")
    clock.step(minutes=5)
    exchange(database, client, begin_posting(database, claim_one(database)))
    row = message(database, row.id)
    assert (row.status, row.reason, row.unknown_resends) == ("unknown", "given_up", 1)
    clock.step(hours=5)
    assert claim(database) == []
    assert history(database, row.id) == [("queued", "provider"), ("unknown", "provider")]


def test_a_text_that_was_left_out_of_an_answer_is_sent_again_where_its_sender_said_so(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.script = [answer_of(accepted(phone(1)))]
    _, (there, missing) = sent(database, client, phone(1), phone(2), on_unknown="resend")
    assert (there.status, missing.status) == ("accepted", "queued")


def test_a_second_record_of_the_same_attempt_changes_nothing(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    posting = post_to(database, phone(1))
    answer = exchange(database, client, posting)
    assert isinstance(answer, SendAnswer)
    before = every(database, tables.messages), every(database, tables.attempts)
    record.record_answer(database, posting, answer)
    fake_at.script = [(500, "text/plain", "oops")]
    with pytest.raises(ProviderError) as lost:
        client.send_texts("x", [phone(1)], None)
    record.record_failure(database, posting, lost.value)
    assert (every(database, tables.messages), every(database, tables.attempts)) == before
    assert history(database, posting.claim.recipients[phone(1)]) == [("accepted", "provider")]


def test_a_late_answer_settles_what_a_sweep_called_unknown(
    database: Database, client: ProviderClient, clock: Clock
) -> None:
    posting = post_to(database, *phones(2))
    clock.step(seconds=LEASE.total_seconds() + 1)
    assert sweep_leases(database) == (0, 2)
    exchange(database, client, posting)
    ids = posting.claim.recipients.values()
    assert [message(database, one).status for one in ids] == ["accepted"] * 2
    assert history(database, next(iter(ids))) == [("unknown", "sweep"), ("accepted", "provider")]
    assert attempt(database, posting.claim.attempt_id).state == "recorded"


def test_a_late_refusal_puts_back_what_a_sweep_called_unknown(
    database: Database, fake_at: FakeProvider, client: ProviderClient, clock: Clock
) -> None:
    posting = post_to(database, phone(1))
    clock.step(seconds=LEASE.total_seconds() + 1)
    sweep_leases(database)
    fake_at.script = [(429, "text/plain", "slow")]
    exchange(database, client, posting)
    assert message(database, posting.claim.recipients[phone(1)]).status == "queued"


def test_with_hardly_any_lease_left_nothing_leaves(
    database: Database, client: ProviderClient, fake_at: FakeProvider
) -> None:
    """The answer would come too late to be heard, and all of them be unknown for nothing."""
    queue(database, *phones(2))
    posting = begin_posting(database, claim_one(database), lease=timedelta(seconds=LEAST_SECONDS / 2))
    outcome = exchange(database, client, posting)
    assert isinstance(outcome, ProviderError)
    assert outcome.outcome == "not_sent"
    assert (fake_at.posts, statuses_of(database)) == ([], ["queued"] * 2)


@pytest.mark.parametrize("is_connected", [False, True])
def test_a_worker_that_was_stopped_past_its_lease_just_before_the_bytes_leave_sends_nothing(
    database: Database,
    client: ProviderClient,
    fake_at: FakeProvider,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    is_connected: bool,
) -> None:
    # It was stopped after the first look at the lease.
    monkeypatch.setattr(provider_transport, "LEAST_SECONDS", float("-inf"))
    if is_connected:
        client.send_texts("Before", [phone(9)], None)
    before = len(fake_at.posts)
    (message_id,) = queue(database, phone(1))
    posting = begin_posting(database, claim_one(database), lease=timedelta(0))
    clock.step(seconds=1)
    sweep_leases(database)
    assert message(database, message_id).status == "unknown"
    outcome = exchange(database, client, posting)
    assert isinstance(outcome, ProviderError)
    assert outcome.outcome == "not_sent"
    assert len(fake_at.posts) == before
    assert [status for status, _ in history(database, message_id)] == ["unknown", "queued"]


def test_a_message_that_was_adopted_meanwhile_is_not_overwritten(
    database: Database, client: ProviderClient, clock: Clock
) -> None:
    posting = post_to(database, phone(1), phone(2))
    clock.step(seconds=LEASE.total_seconds() + 1)
    sweep_leases(database)
    adopted = posting.claim.recipients[phone(1)]
    change(
        database, tables.messages, adopted, status=statuses.DELIVERED, provider_message_id="ATXid_inferred"
    )
    exchange(database, client, posting)
    row = message(database, adopted)
    assert (row.status, row.provider_message_id) == ("delivered", "ATXid_inferred")
    assert message(database, posting.claim.recipients[phone(2)]).status == "accepted"


def test_a_message_that_another_attempt_holds_is_not_touched(
    database: Database, client: ProviderClient
) -> None:
    posting = post_to(database, phone(1))
    one = posting.claim.recipients[phone(1)]
    change(database, tables.messages, one, attempt_id=None, status="queued")
    other = claim_one(database)
    exchange(database, client, posting)
    row = message(database, one)
    assert (row.status, row.attempt_id) == ("sending", other.attempt_id)


def test_an_attempt_that_was_given_back_records_nothing(database: Database, client: ProviderClient) -> None:
    posting = post_to(database, phone(1))
    change(database, tables.attempts, posting.claim.attempt_id, state="released")
    exchange(database, client, posting)
    assert message(database, posting.claim.recipients[phone(1)]).status == "sending"


def test_a_person_who_opted_out_in_mid_post_is_recorded_as_sent_to(
    database: Database, client: ProviderClient
) -> None:
    posting = post_to(database, phone(1))
    opt_out(database, phone(1))
    exchange(database, client, posting)
    assert message(database, posting.claim.recipients[phone(1)]).status == "accepted"


def test_a_report_that_came_before_the_answer_counts_at_the_record(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    posting = post_to(database, phone(1))

    def park(connection: Any, now: Any) -> None:
        journal = {"kind": "report", "body": b"x", "digest": b"y", "count": 1, "outcome": "applied"}
        entry = insert(tables.callbacks).values(received_at=now, last_seen_at=now, **journal)
        callback_id = connection.execute(entry.returning(tables.callbacks.c.id)).scalar_one()
        report = {"provider_message_id": "ATXid_early", "recipient": phone(1), "word": "Success"}
        parked = report | {"callback_id": callback_id, "effect": "parked", "received_at": now}
        connection.execute(insert(tables.delivery_reports).values(**parked))

    in_write(database, park)
    fake_at.script = [answer_of(accepted(phone(1), "ATXid_early"))]
    exchange(database, client, posting)
    row = message(database, posting.claim.recipients[phone(1)])
    assert (row.status, row.provider_message_id) == ("delivered", "ATXid_early")
    assert [status for status, _ in history(database, row.id)] == ["accepted", "delivered"]
    (report,) = every(database, tables.delivery_reports)
    assert (report.message_id, report.effect) == (row.id, report_effects.MOVED)


def test_the_answer_to_a_trigger_is_kept_for_its_next_call(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    posting = post_to(database, phone(1), phone(2))
    fake_at.script = [answer_of(accepted(phone(1)))]
    exchange(database, client, replace(posting, claim=replace(posting.claim, is_trigger=True)))
    kept = json.loads(attempt(database, posting.claim.attempt_id).answer)
    assert kept["accepted"] == [phone(1)]
    assert kept["unknown"] == [phone(2)]
    assert kept["response"]["SMSMessageData"]["Message"] == "Sent"


def test_two_answers_with_the_same_numbers_refused_do_not_wait_for_each_other(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    numbers = phones(30)
    for number in numbers:
        fake_at.refused[number] = (406, "UserInBlacklist")
    forward = post_to(database, *numbers, text="one", sender_id="ACME")
    backward = post_to(database, *reversed(numbers), text="two", sender_id="OTHER")
    threads = [
        threading.Thread(target=exchange, args=(database, client, posting)) for posting in (forward, backward)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {row.status for row in every(database, tables.messages)} == {"rejected"}
    with database.read() as connection:
        for sender_id in ("ACME", "OTHER"):
            assert ledger.suppressed(connection, numbers, sender_id) == set(numbers)


def test_many_recipients_are_recorded_together(database: Database, client: ProviderClient) -> None:
    posting = post_to(database, *phones(500))
    exchange(database, client, posting)
    rows = every(database, tables.messages)
    assert {row.status for row in rows} == {"accepted"}
    assert len({row.provider_message_id for row in rows}) == 500


def test_a_resumed_pause_sends_what_was_held(
    database: Database, fake_at: FakeProvider, client: ProviderClient
) -> None:
    fake_at.script = [(401, "text/plain", "bad key")]
    sent(database, client, phone(1))
    assert claim(database) == []
    in_write(database, lambda connection, _: pauses.resume(connection))
    exchange(database, client, begin_posting(database, claim_one(database)))
    assert every(database, tables.messages)[0].status == "accepted"


@pytest.mark.parametrize(
    ("script", "status"),
    [((429, "text/plain", "slow"), "failed"), ((500, "text/plain", "oops"), "unknown"), (None, "accepted")],
)
@pytest.mark.parametrize(
    "decide", [unknown_outcomes.resend, unknown_outcomes.close], ids=["resent", "closed"]
)
def test_a_late_answer_never_sends_what_a_person_has_decided_about(
    database: Database,
    fake_at: FakeProvider,
    client: ProviderClient,
    clock: Clock,
    decide: Callable[[Database, int], Any],
    script: tuple[int, str, str] | None,
    status: str,
) -> None:
    """It would be the second copy: the first is the one that the person asked for."""
    posting = post_to(database, phone(1), on_unknown="resend")
    one = posting.claim.recipients[phone(1)]
    clock.step(seconds=LEASE.total_seconds() + 1)
    sweep_leases(database)
    decide(database, one)
    fake_at.script = [script] if script else []
    exchange(database, client, posting)
    assert message(database, one).status == status
    if status == "unknown":
        with pytest.raises(unknown_outcomes.NotUnknown):
            unknown_outcomes.resend(database, one)


def answer_with(posting: Posting, **values: Any) -> SendAnswer:
    """All are accepted; the first one's answer holds `values`."""
    found = {
        number: RecipientAnswer(number, "accepted", None, 101, "Success", f"ATXid_{number}", parts=1)
        for number in posting.claim.recipients
    }
    first = next(iter(found))
    found[first] = found[first]._replace(**values)
    return SendAnswer({}, 201, "Sent", found, [])


# Of an id that cannot be compressed; text without an end is also too long for an index's page.
TOO_LONG = secrets.token_hex(10_000)
UNSTORABLE = [
    {"provider_message_id": TOO_LONG},
    {"cost": Money(Decimal(10) ** 30, "KES"), "cost_raw": "KES 1e30"},
]


@pytest.mark.parametrize("values", UNSTORABLE, ids=["id", "cost"])
def test_an_answer_that_cannot_be_stored_does_not_cost_the_others_of_its_post_theirs(
    database: Database, values: dict[str, Any]
) -> None:
    posting = post_to(database, *phones(3))
    began_at = time.monotonic()
    write_outcome(database, posting, answer_with(posting, **values))
    assert time.monotonic() - began_at < TIMEOUT_SECONDS / 2
    assert statuses_of(database) == ["accepted"] * 3
    kept = [row.provider_message_id for row in every(database, tables.messages)]
    assert kept[1:] == [f"ATXid_{phone(2)}", f"ATXid_{phone(3)}"]
    assert attempt(database, posting.claim.attempt_id).state == "recorded"


def test_words_of_a_whole_answer_that_cannot_be_stored_are_left_out(database: Database) -> None:
    """PostgreSQL refuses a zero in a text; SQLite keeps it."""
    posting = post_to(database, *phones(2))
    write_outcome(database, posting, replace(answer_with(posting), message="a\0b"))
    assert statuses_of(database) == ["accepted"] * 2
    told = attempt(database, posting.claim.attempt_id).provider_message
    assert told == ("a\0b" if database.is_sqlite else "")


@pytest.mark.parametrize(("reason", "detail"), [("daily_limit", "KES 6.32 a day"), ("by_hand", None)])
def test_a_text_that_comes_back_waits_where_its_batch_was_paused_at_its_end(
    database: Database, clock: Clock, reason: str, detail: str | None
) -> None:
    """What waited came too late meanwhile."""
    batch_id = queue_batch(database, [phone(1)])
    posting = begin_posting(database, claim_one(database))
    change(database, tables.batches, batch_id, status="paused", reason=reason, detail=detail)
    clock.step(minutes=10)
    sweep_leases(database)
    BatchUpkeep(database).look()
    finished = get_batch(database, batch_id)
    assert (finished["status"], finished.get("reason"), finished.get("explanation")) == (
        "finished",
        None,
        None,
    )

    write_outcome(database, posting, ProviderUnreachable(reason="timed_out"))

    BatchUpkeep(database).look()
    batch = get_batch(database, batch_id)
    assert (batch["status"], batch["reason"], batch["finished_at"]) == ("paused", reason, None)
    assert detail is None or detail in batch["explanation"]
    clock.step(minutes=10)
    assert (statuses_of(database), claim(database)) == (["queued"], [])


@pytest.mark.parametrize(("ended", "now"), [("sending", "queued"), ("cancelled", "cancelled")])
def test_a_text_that_comes_back_when_its_batch_is_finished_is_not_forgotten(
    database: Database, clock: Clock, ended: str, now: str
) -> None:
    """A worker stood still in its POST for longer than its lease, and then nothing had left."""
    batch_id = queue_batch(database, [phone(1)])
    posting = begin_posting(database, claim_one(database))
    change(database, tables.batches, batch_id, status=ended)
    clock.step(minutes=10)
    sweep_leases(database)
    BatchUpkeep(database).look()
    assert every(database, tables.batches)[0].finished_at is not None

    write_outcome(database, posting, ProviderUnreachable(reason="timed_out"))

    BatchUpkeep(database).look()
    clock.step(minutes=10)
    assert statuses_of(database) == [now]
    assert [one.recipients for one in claim(database)] == ([{phone(1): 1}] if now == "queued" else [])
