"""What waits before its first text: above APPROVAL_ABOVE, or far more than on a usual day; and who lets it go."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from messaging.access.actor import Actor, acting
from messaging.batches import control, importer, quote, upload
from messaging.batches.progress import get_batch
from messaging.costs.brakes import usual_day
from messaging.messages import accept
from messaging.operations import held
from messaging.sending.triggers import TriggerSender
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.fake_provider import FakeProvider
from utils.errors import Forbidden
from utils.money import Money, parse_money
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

AUTHOR = Actor("operator:ann", may_approve=True)
SENDER = Actor("operator:sam")
APPROVER = Actor("operator:bob", may_approve=True)
Send = Callable[[Settings, Database, int], int]


def money(text: str) -> Money:
    found = parse_money(text)
    assert found is not None
    return found


def by_call(settings: Settings, database: Database, texts: int) -> int:
    request = accept.SendRequest(delivery.phones(texts), "Hello")
    return int(accept.accept(settings, database, request).body["batch_id"])


def by_file(settings: Settings, database: Database, texts: int) -> int:
    file = io.BytesIO("\n".join(["phone", *delivery.phones(texts)]).encode())
    body = upload.receive(settings, database, upload.BatchRequest("Hello"), file).body
    importer.import_next(database, settings, lambda: False)
    return int(body["id"])


def know_price(
    database: Database,
    sender: str = "AFRICASTKNG",
    currency: str = "KES",
    *,
    prefix: str = "+254711",
    country: str = "KE",
) -> None:
    row = {
        "sender_id": sender,
        "prefix": prefix,
        "country": country,
        "currency": currency,
        "micros_per_part": 800_000,
    }
    delivery.in_write(
        database, lambda connection, now: connection.execute(insert(tables.prices).values(**row, seen_at=now))
    )


def count_day(database: Database, days_ago: int, texts: int, table: Any = tables.hourly_counts) -> None:
    def write(connection: Any, now: datetime) -> None:
        hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(days=days_ago)
        row = dict.fromkeys(("reason", "sender_id", "network", "currency"), "")
        counted = {"hour": hour, "status": "accepted", "delay": 0, "messages": texts, "parts": 0, "micros": 0}
        connection.execute(insert(table).values(**row, **counted))

    delivery.in_write(database, write)


def state_of(database: Database, batch_id: int) -> tuple[str, str | None]:
    batch = get_batch(database, batch_id)
    return batch["status"], batch.get("reason")


@pytest.mark.parametrize("send", [by_call, by_file])
def test_a_batch_above_so_many_recipients_waits_and_none_of_it_can_be_claimed(
    database: Database, settings: Settings, send: Send
) -> None:
    above_3 = settings.model_copy(update={"approval_above": 3})
    acting.set(AUTHOR)
    waits, goes = send(above_3, database, 4), send(above_3, database, 3)
    assert state_of(database, waits) == ("paused", "needs_approval")
    assert get_batch(database, waits)["explanation"].endswith(": 4 texts, above 3")
    assert state_of(database, goes) == ("sending", None)
    assert sum(len(one.recipients) for one in delivery.claim(database)) == 3


@pytest.mark.parametrize("send", [by_call, by_file])
@pytest.mark.parametrize(
    ("known", "texts", "expected"),
    [
        ("KES", 20, "about KES 16.00, above KES 15"),
        ("KES", 18, None),
        ("UGX", 11, "11 texts, and not all of their prices in KES are known"),
        (None, 11, "11 texts, and not all of their prices in KES are known"),
        (None, 10, None),
    ],
)
def test_a_batch_above_so_much_money_waits(
    database: Database, settings: Settings, send: Send, known: str | None, texts: int, expected: str | None
) -> None:
    if known is not None:
        know_price(database, "ANOTHER", known)
    batch_id = send(settings.model_copy(update={"approval_above": money("KES 15")}), database, texts)
    explanation = get_batch(database, batch_id).get("explanation") or ""
    assert explanation.partition(": ")[2] == (expected or "")


@pytest.mark.parametrize("send", [by_call, by_file])
@pytest.mark.parametrize(("texts", "held"), [(10, False), (11, True)])
def test_a_batch_to_a_country_of_unknown_price_waits_though_others_are_known(
    database: Database, settings: Settings, send: Send, texts: int, held: bool
) -> None:
    """Uganda's may be ten times what Kenya's texts cost."""
    know_price(database, prefix="+256772", country="UG")
    above = settings.model_copy(update={"approval_above": money("KES 1000")})
    found = quote.quote_messages(above, database, delivery.phones(texts), "Hello")
    assert found["unpriced"] == texts
    expected = f"{texts} texts, and not all of their prices in KES are known" if held else ""
    assert (quote.find_brakes(above, database, found)["approval"] or "") == expected
    explanation = get_batch(database, send(above, database, texts)).get("explanation") or ""
    assert explanation.partition(": ")[2] == expected


@pytest.mark.parametrize("sender", ["AFRICASTKNG", "ANOTHER"])
def test_the_page_says_of_money_what_the_brake_says(
    database: Database, settings: Settings, sender: str
) -> None:
    know_price(database, sender)
    above = settings.model_copy(update={"approval_above": money("KES 15")})
    found = quote.quote_messages(above, database, delivery.phones(20), "Hello")
    assert quote.find_brakes(above, database, found)["approval"] == "about KES 16.00, above KES 15"


@pytest.mark.parametrize(
    ("who", "says"),
    [
        (AUTHOR, "somebody else"),
        (SENDER, "waits for an approver"),
        (None, "waits for an approver"),
    ],
)
@pytest.mark.parametrize("door", ["resume", "release"])
def test_only_an_approver_who_is_not_its_author_lets_it_go(
    database: Database, settings: Settings, who: Actor | None, says: str, door: str
) -> None:
    acting.set(AUTHOR)
    batch_id = by_call(settings.model_copy(update={"approval_above": 1}), database, 2)
    doors: dict[str, Callable[[], Any]] = {
        "resume": lambda: control.resume(database, batch_id),
        "release": lambda: held.release(database, f"batch:{batch_id}", "somebody"),
    }
    acting.set(who)
    with pytest.raises(Forbidden, match=says) as refused:
        doors[door]()
    assert refused.value.code == "needs_approval"
    assert state_of(database, batch_id) == ("paused", "needs_approval")
    acting.set(APPROVER)
    doors[door]()
    assert state_of(database, batch_id) == ("sending", None)
    (noted,) = delivery.every(database, tables.actions)
    assert (noted.actor, noted.action, noted.subject) == ("operator:bob", "batch.resume", f"batch:{batch_id}")
    assert '"needs_approval"' in noted.before


def test_a_pause_by_hand_does_not_take_the_brakes_place(database: Database, settings: Settings) -> None:
    acting.set(SENDER)
    batch_id = by_call(settings.model_copy(update={"approval_above": 1}), database, 2)
    control.pause(database, batch_id)
    assert state_of(database, batch_id) == ("paused", "needs_approval")


def test_an_approved_batch_that_was_paused_by_hand_is_resumed_by_anybody(
    database: Database, settings: Settings
) -> None:
    acting.set(SENDER)
    batch_id = by_call(settings.model_copy(update={"approval_above": 1}), database, 2)
    acting.set(APPROVER)
    control.resume(database, batch_id)
    acting.set(SENDER)
    control.pause(database, batch_id)
    assert control.resume(database, batch_id)["status"] == "sending"


@pytest.mark.parametrize("send", [by_call, by_file])
def test_a_batch_far_above_the_usual_day_waits_and_says_so(
    database: Database, settings: Settings, send: Send
) -> None:
    for days_ago, texts in enumerate((2, 400, 3, 1, 2), start=1):
        count_day(database, days_ago, texts)
    ten_times = settings.model_copy(update={"unusual_factor": 10.0})
    goes, waits = send(ten_times, database, 20), send(ten_times, database, 21)
    assert state_of(database, goes) == ("sending", None)
    assert state_of(database, waits) == ("paused", "unusual_volume")
    assert "21 texts are 10 times your usual day (2)" in get_batch(database, waits)["explanation"]
    acting.set(SENDER)
    with pytest.raises(Forbidden) as refused:
        control.resume(database, waits)
    assert refused.value.code == "unusual_volume"
    acting.set(APPROVER)
    assert control.resume(database, waits)["status"] == "sending"


def test_without_a_usual_day_nothing_is_unusual(database: Database, settings: Settings) -> None:
    count_day(database, 0, 1)
    count_day(database, 29, 1)
    batch_id = by_call(settings.model_copy(update={"unusual_factor": 2.0}), database, 9)
    assert state_of(database, batch_id) == ("sending", None)


def test_what_is_not_folded_yet_counts_and_a_day_is_one_of_the_time_zone(database: Database) -> None:
    count_day(database, 2, 30)
    count_day(database, 2, 10, tables.status_deltas)
    now = datetime.now(UTC).replace(hour=23, minute=30)
    with database.read() as connection:
        assert usual_day(connection, now, "UTC") == 40
        assert usual_day(connection, now - timedelta(days=2), "UTC") is None


def test_a_trigger_that_would_wait_as_a_batch_is_refused(
    database: Database, at_settings: Settings, fake_at: FakeProvider, client: ProviderClient
) -> None:
    sender = TriggerSender(at_settings.model_copy(update={"approval_above": 2}), database, client)
    with pytest.raises(Forbidden, match="Send it as a batch") as refused:
        sender.send_now("Hello", delivery.phones(3), None)
    assert (refused.value.code, fake_at.posts, delivery.statuses_of(database)) == ("needs_approval", [], [])


def test_by_default_nothing_is_braked(database: Database, settings: Settings) -> None:
    count_day(database, 1, 1)
    assert state_of(database, by_call(settings, database, 100)) == ("sending", None)
