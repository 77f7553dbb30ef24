"""max_cost: a batch stops before it is passed, however many workers are at it."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from messaging.batches import control
from messaging.batches.progress import get_batch
from messaging.messages.queue import BATCH_PRIORITY
from messaging.sending import due
from messaging.sending.sender import MessageSender
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.delivery import Clock
from tests.support.simulator_process import SimulatorProcess
from utils.errors import Conflict
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]
# The simulator bills KES 0.8000 a part.
PRICE_MICROS = 800_000


def queue_with_budget(database: Database, recipients: int, messages_worth: float, text: str = "Bulk") -> int:
    budget = {"max_cost_micros": int(messages_worth * PRICE_MICROS), "max_cost_currency": "KES"}
    batch_id = delivery.new_batch(database, recipients, **budget)
    everyone = delivery.phones(recipients)
    for number, phone in enumerate(everyone):
        given = text.format(number)
        delivery.queue(database, phone, text=given, batch_id=batch_id, priority=BATCH_PRIORITY)
    return batch_id


def send(settings: Settings, database: Database, client: ProviderClient) -> None:
    MessageSender(settings, database, client).run_until_idle()


def sent(database: Database) -> int:
    return delivery.count(database, tables.messages, tables.messages.c.status == "accepted")


@pytest.mark.parametrize("text", ["Bulk", "Bulk for {}"], ids=["plain", "personalised"])
def test_a_batch_stops_before_its_max_cost_is_passed(
    database: Database, simulator_settings: Settings, simulator_client: ProviderClient, text: str
) -> None:
    batch_id = queue_with_budget(database, 20, 7.9, text)
    send(simulator_settings, database, simulator_client)
    batch = get_batch(database, batch_id)
    assert (sent(database), batch["status"], batch["reason"]) == (7, "paused", "max_cost")
    assert batch["counts"] == {"accepted": 7, "queued": 13}
    assert (
        delivery.only(database, tables.batches, tables.batches.c.id == batch_id).spent_micros
        == 7 * PRICE_MICROS
    )


def test_a_batch_within_its_max_cost_goes_out_whole(
    database: Database, simulator_settings: Settings, simulator_client: ProviderClient
) -> None:
    queue_with_budget(database, 20, 20)
    send(simulator_settings, database, simulator_client)
    assert sent(database) == 20


def test_several_workers_together_do_not_pass_it(
    database: Database, simulator_settings: Settings, simulator_client: ProviderClient
) -> None:
    batch_id = queue_with_budget(database, 60, 31.5, "Bulk for {}")
    few_at_a_time = simulator_settings.model_copy(update={"at_max_recipients": 3})
    for _ in range(3):
        lanes = [
            threading.Thread(target=send, args=(few_at_a_time, database, simulator_client)) for _ in range(4)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join(60)
    assert (sent(database), get_batch(database, batch_id)["reason"]) == (31, "max_cost")


def test_where_no_price_is_known_one_text_goes_ahead_to_learn_it(database: Database) -> None:
    queue_with_budget(database, 20, 10)
    (first,) = delivery.claim(database)
    assert len(first.recipients) == 1
    assert delivery.claim(database) == []


def test_what_was_never_posted_is_not_spent(
    database: Database, simulator_settings: Settings, simulator_client: ProviderClient, clock: Clock
) -> None:
    queue_with_budget(database, 5, 3)
    delivery.claim(database, lease=timedelta(seconds=5))
    clock.step(minutes=1)
    assert delivery.sweep_leases(database) == (1, 0)
    send(simulator_settings, database, simulator_client)
    assert sent(database) == 3


def test_a_lost_answer_counts_as_spent(
    database: Database,
    simulator: SimulatorProcess,
    simulator_settings: Settings,
    simulator_client: ProviderClient,
    clock: Clock,
) -> None:
    queue_with_budget(database, 1, 1, "Learn the price")
    send(simulator_settings, database, simulator_client)
    batch_id = queue_with_budget(database, 5, 3)
    delivery.begin_posting(database, delivery.claim_one(database, recipients=2, posts=1))
    clock.step(hours=1)
    assert delivery.sweep_leases(database) == (0, 2)
    send(simulator_settings, database, simulator_client)
    batch = get_batch(database, batch_id)
    assert batch["counts"] == {"accepted": 1, "queued": 2, "unknown": 2}


def test_a_batch_that_used_up_its_max_cost_cannot_be_resumed(
    database: Database, simulator_settings: Settings, simulator_client: ProviderClient
) -> None:
    batch_id = queue_with_budget(database, 3, 1)
    send(simulator_settings, database, simulator_client)
    with pytest.raises(Conflict, match="no room left in its max_cost"):
        control.resume(database, batch_id)


def test_a_price_in_another_currency_stops_the_batch_and_says_so(
    database: Database, simulator_settings: Settings, simulator_client: ProviderClient
) -> None:
    batch_id = delivery.new_batch(database, 3, max_cost_micros=10**9, max_cost_currency="USD")
    delivery.queue(database, *delivery.phones(3), batch_id=batch_id, priority=BATCH_PRIORITY)
    send(simulator_settings, database, simulator_client)
    assert get_batch(database, batch_id)["reason"] == "max_cost_currency"
    assert sent(database) == 1


def test_other_batches_go_on_beside_one_that_is_used_up(
    database: Database, simulator_settings: Settings, simulator_client: ProviderClient
) -> None:
    queue_with_budget(database, 5, 1)
    delivery.queue_batch(database, delivery.phones(5, first=100))
    send(simulator_settings, database, simulator_client)
    assert due.has_due(database) is False
    assert sent(database) == 6
