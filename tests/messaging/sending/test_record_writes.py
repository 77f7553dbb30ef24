from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from messaging import statuses
from messaging.sending.claim import Claim
from messaging.sending.record_writes import RecordWrites
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.delivery import history, message, phone, queue
from utils.errors import ProviderRefused, ProviderUnreachable
from utils.money import Money
from utils.provider_answers import RecipientAnswer

NOW = utc_now()


def writes_for(message_id: int, *, is_trigger: bool = False) -> RecordWrites:
    claim = Claim(7, "Hello", None, None, {phone(1): message_id}, urgent=True, is_trigger=is_trigger)
    return RecordWrites(claim, NOW)


def row(message_id: int, **values: object) -> SimpleNamespace:
    usual = {"status": "sending", "tries": 0, "created_at": NOW, "on_unknown": "hold", "unknown_resends": 0}
    return SimpleNamespace(id=message_id, **(usual | {"reason": None} | values))


def write(database: Database, writes: RecordWrites) -> None:
    with database.write() as connection:
        writes.execute(connection)


def test_nothing_is_written_where_nothing_was_answered(database: Database) -> None:
    (one,) = queue(database, phone(1))
    write(database, writes_for(one))
    assert message(database, one).status == "queued"
    assert history(database, one) == []


def test_every_outcome_is_one_event_that_names_the_attempt_and_ats_words(database: Database) -> None:
    (one,) = queue(database, phone(1))
    writes = writes_for(one)
    writes.add_answer(row(one), RecipientAnswer(phone(1), "rejected", "no_route", 407, "CouldNotRoute"))
    write(database, writes)
    assert history(database, one) == [("rejected", "provider")]
    with database.read() as connection:
        event = connection.execute(tables.message_events.select()).one()
    assert (event.attempt_id, event.detail, event.at) == (7, "407 CouldNotRoute", NOW)


def test_a_price_of_many_decimals_is_booked_in_whole_millionths(database: Database) -> None:
    (one,) = queue(database, phone(1))
    writes = writes_for(one)
    cost = Money(Decimal("0.00791239"), "USD")
    writes.add_answer(row(one), RecipientAnswer(phone(1), "accepted", cost=cost, cost_raw="USD 0.00791239"))
    write(database, writes)
    assert message(database, one).cost_micros == 7912


def test_a_text_that_was_queued_again_is_due_later_and_counts_its_tries(database: Database) -> None:
    (one,) = queue(database, phone(1))
    writes = writes_for(one)
    writes.add_failure(row(one, tries=2), ProviderUnreachable(reason="connection_failed"))
    woken: list[None] = []
    database.wake = lambda: woken.append(None)
    write(database, writes)
    found = message(database, one)
    assert (found.status, found.tries, found.reason) == ("queued", 3, "connection_failed")
    assert timedelta(seconds=10) <= found.due_at - NOW <= timedelta(seconds=20)
    assert woken == [None]


def test_a_refusal_for_a_pause_is_due_at_once_when_the_pause_ends(database: Database) -> None:
    (one,) = queue(database, phone(1))
    writes = writes_for(one)
    refusal = ProviderRefused(reason="insufficient_balance", pauses="account")
    writes.add_failure(row(one, tries=2), refusal)
    write(database, writes)
    found = message(database, one)
    assert (found.status, found.tries, found.due_at) == ("queued", 2, NOW)


@pytest.mark.parametrize(
    "error",
    [
        ProviderUnreachable(reason="connection_failed"),
        ProviderRefused(reason="http_400"),
        ProviderRefused(reason="insufficient_balance", pauses="account"),
    ],
)
def test_what_a_trigger_did_not_send_has_failed_and_is_never_the_workers(
    database: Database, error: ProviderRefused | ProviderUnreachable
) -> None:
    (one,) = queue(database, phone(1))
    writes = writes_for(one, is_trigger=True)
    writes.add_failure(row(one), error)
    write(database, writes)
    assert (message(database, one).status, message(database, one).reason) == (statuses.FAILED, error.reason)


def test_an_unknown_outcome_of_a_trigger_is_not_sent_again_whatever_the_row_says(database: Database) -> None:
    (one,) = queue(database, phone(1))
    writes = writes_for(one, is_trigger=True)
    writes.add_answer(row(one, on_unknown="resend"), RecipientAnswer(phone(1), "unknown", "gateway_error"))
    write(database, writes)
    assert message(database, one).status == "unknown"


def test_an_unknown_message_is_not_finished(database: Database) -> None:
    (one,) = queue(database, phone(1))
    writes = writes_for(one)
    writes.add_answer(row(one), RecipientAnswer(phone(1), "unknown", "gateway_error"))
    write(database, writes)
    assert message(database, one).finished_at is None
