"""Counts that writers append: whatever way a status is written, it is counted once, and folding changes no sum."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import insert

from messaging import statuses
from messaging.consent import ledger
from messaging.messages import held, status_counts, unknown_outcomes
from messaging.messages.status_counts import DELAYS, Counted, Tally, delay_step, hour_of
from messaging.operations import sweep
from messaging.sending.record import record_answer, record_failure
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.callback_rows import at_once, open_inbox, report
from tests.support.delivery import Clock
from utils.errors import OutcomeUnknown, ProviderUnreachable
from utils.money import parse_money
from utils.provider_answers import RecipientAnswer, SendAnswer
from utils.settings import Settings

pytest_plugins = ["tests.support.delivery_fixtures"]
COLUMNS = (*Counted._fields, "messages", "parts", "micros")


def counted(database: Database) -> dict[Counted, tuple[int, int, int]]:
    """Folded or not."""
    tally = Tally()
    for table in (tables.status_deltas, tables.hourly_counts):
        for row in delivery.every(database, table):
            numbers = [getattr(row, name) for name in COLUMNS]
            tally.add(Counted(*numbers[:-3]), *numbers[-3:])
    return tally


def by_status(database: Database) -> Counter[str]:
    found: Counter[str] = Counter()
    for key, (messages, _, _) in counted(database).items():
        found[key.status] += messages
    return found


def in_histories(database: Database) -> Counter[str]:
    """What a person decided about an unknown message changes no status."""
    rows = delivery.every(database, tables.message_events)
    return Counter(row.status for row in rows if (row.status, row.source) != ("unknown", "operator"))


def answer_of(number: str, outcome: str = "accepted", provider_id: str | None = None) -> RecipientAnswer:
    cost = parse_money("KES 1.6000") if outcome == "accepted" else None
    found = RecipientAnswer(number, outcome)  # type: ignore[arg-type]
    return found._replace(provider_message_id=provider_id, cost=cost, cost_raw="KES 1.6000", parts=2)


def answer(*recipients: RecipientAnswer) -> SendAnswer:
    return SendAnswer({}, 201, "", {one.number: one for one in recipients}, [])


def test_acceptances_of_a_post_are_one_row_with_parts_and_costs(database: Database) -> None:
    posting = delivery.post_to(database, *delivery.phones(3), sender_id="CLINIC")
    record_answer(database, posting, answer(*map(answer_of, delivery.phones(3))))
    (row,) = delivery.every(database, tables.status_deltas)
    assert (row.status, row.sender_id, row.currency, row.reason) == ("accepted", "CLINIC", "KES", "")
    assert (row.messages, row.parts, row.micros) == (3, 6, 4_800_000)
    assert row.hour == hour_of(delivery.message(database, 1).sent_at)


def test_every_way_to_a_status_is_counted_once(database: Database, settings: Settings, clock: Clock) -> None:
    later = delivery.in_write(database, lambda _connection, now: now + timedelta(hours=1))
    # Accepted and rejected, then reported; one of them late, one twice.
    posting = delivery.post_to(database, *delivery.phones(4), sender_id="CLINIC")
    first, second, third, fourth = delivery.phones(4)
    said = [answer_of(one, provider_id=f"ATXid_{one[-4:]}") for one in (first, second, third)]
    record_answer(database, posting, answer(*said, answer_of(fourth, "rejected")))
    with open_inbox(database, settings) as inbox:
        for phone, word in ((first, "Success"), (second, "Failed"), (second, "Success"), (third, "Success")):
            inbox.receive("report", report(f"ATXid_{phone[-4:]}", word))
    # A worker that died.
    lost = delivery.post_to(database, delivery.phone(7))
    delivery.change(
        database, tables.attempts, lost.claim.attempt_id, lease_until=utc_now() - timedelta(days=1)
    )
    sweep.sweep_expired_leases(database)
    # Blocked, held and released, too late.
    delivery.opt_out(database, delivery.phone(8))
    delivery.queue(database, delivery.phone(8))
    delivery.claim(database)
    ids = delivery.queue(database, delivery.phone(9), expires_at=later)
    delivery.in_write(database, lambda connection, now: held.hold(connection, ids, "database_restored", now))
    delivery.in_write(
        database, lambda connection, now: held.release(connection, ids, now, "mary", ledger.suppressed)
    )
    clock.step(hours=2)
    sweep._settle_in_chunks(database, sweep._too_late)
    # Not sent, and lost; what is unknown is then closed by a person.
    refused, silent = (delivery.post_to(database, delivery.phone(number)) for number in (5, 6))
    record_failure(database, refused, ProviderUnreachable(reason="refused"))
    record_failure(database, silent, OutcomeUnknown(reason="reset"))
    unknown_outcomes.close(database, delivery.message_to(database, delivery.phone(6)).id)
    assert by_status(database) == in_histories(database)
    assert set(by_status(database)) == {
        *("accepted", "rejected", "delivered", "failed", "queued", "unknown", "blocked", "held", "expired")
    }
    before = counted(database)
    assert status_counts.fold(database) > 0
    assert counted(database) == before
    assert delivery.every(database, tables.status_deltas) == []


def test_a_late_success_says_what_it_overrules(database: Database, settings: Settings) -> None:
    posting = delivery.post_to(database, delivery.phone(1))
    record_answer(database, posting, answer(answer_of(delivery.phone(1), provider_id="ATXid_1")))
    with open_inbox(database, settings) as inbox:
        for word in ("Failed", "Success"):
            inbox.receive("report", report("ATXid_1", word))
            sweep.sweep(database, settings)
    reasons = {(key.status, key.reason) for key in counted(database)}
    assert ("delivered", "after_failed") in reasons


def test_the_time_to_delivery_is_counted_in_steps(database: Database, settings: Settings) -> None:
    posting = delivery.post_to(database, delivery.phone(1))
    record_answer(database, posting, answer(answer_of(delivery.phone(1), provider_id="ATXid_1")))
    delivery.change(database, tables.messages, 1, sent_at=utc_now() - timedelta(seconds=100))
    with open_inbox(database, settings) as inbox:
        inbox.receive("report", report("ATXid_1", "Success"))
    sweep.sweep(database, settings)
    (step,) = {key.delay for key in counted(database) if key.status == statuses.DELIVERED}
    assert DELAYS[step - 2] < 100 <= DELAYS[step - 1]


@pytest.mark.parametrize(
    ("seconds", "step"), [(0, 1), (1, 1), (1.5, 2), (2, 2), (259200, len(DELAYS)), (10**7, len(DELAYS) + 1)]
)
def test_each_duration_has_its_step(seconds: float, step: int) -> None:
    assert delay_step(timedelta(seconds=seconds)) == step


def test_two_sweeps_at_once_fold_each_delta_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_counts, "FOLDED_AT_ONCE", 7)
    hour = hour_of(utc_now())
    row = {**dict.fromkeys(COLUMNS, ""), "hour": hour, "status": "accepted", "delay": 0}
    row |= {"messages": 1, "parts": 1, "micros": 800_000}
    with database.write() as connection:
        connection.execute(insert(tables.status_deltas), [row] * 100)
    at_once([partial(status_counts.fold, database)] * 4)
    status_counts.fold(database)
    (found,) = delivery.every(database, tables.hourly_counts)
    assert (found.messages, found.parts, found.micros) == (100, 100, 80_000_000)


def test_what_a_transaction_takes_back_is_not_counted(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            status_counts.append(connection, Tally({Counted(hour_of(utc_now()), "accepted"): (1, 1, 1)}))
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert counted(database) == {}
