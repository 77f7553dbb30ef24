"""The limits of a day: by account, key and sender, exact between workers, and what a person lets pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event, insert

from messaging.access import keys
from messaging.access.actor import Actor, acting
from messaging.batches import control
from messaging.batches.progress import get_batch
from messaging.costs import daily_limits
from messaging.costs.daily_limits import ACCOUNT, DailyLimits, Limit
from messaging.messages.queue import BATCH_PRIORITY, REPLY_PRIORITY
from messaging.operations import held
from messaging.operations.audit import audit
from messaging.sending import start_post
from messaging.sending.claim import Claim, ClaimLimits
from messaging.sending.last_check import Released
from messaging.sending.rate_limit import Rates
from messaging.sending.sender import write_outcome
from messaging.sending.start_post import Posting
from messaging.sending.triggers import DailyLimitReached, TriggerSender
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.delivery import LEASE, WORKER, Clock, phone, phones
from tests.support.fake_provider import FakeProvider
from utils.deadlines import boot_clock
from utils.errors import Forbidden, OutcomeUnknown, ProviderUnreachable
from utils.money import Money, parse_money
from utils.provider_answers import RecipientAnswer, SendAnswer
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

PRICE = 800_000
APPROVER = Actor("operator:bob", may_approve=True)
SENDER = Actor("operator:sam")


def texts_worth(count: float, scope: str = ACCOUNT, currency: str = "KES") -> Limit:
    return Limit(scope, int(count * PRICE), currency)


def of_account(count: float) -> DailyLimits:
    return DailyLimits(texts_worth(count))


@pytest.fixture
def priced(database: Database, clock: Clock) -> Database:
    """With a known price of KES 0.80, at noon: what a test spends minutes later is spent on the same day."""
    with database.read() as connection:
        now = wall_clock(connection)
    clock.step(hours=(12 - now.hour) % 24)
    delivery.know_price(database, PRICE)
    return database


def claim(database: Database, daily: DailyLimits, recipients: int = 500) -> list[Claim]:
    return delivery.claim_as(database, WORKER, ClaimLimits(recipients, LEASE, daily=daily))


def begin(database: Database, one: Claim) -> Posting | Released:
    turn = delivery.begin(database, one)
    # As a lane does: on a busy machine what was asked over a second ago is asked again.
    while isinstance(turn, start_post.Wait):
        time.sleep(turn.seconds)
        turn = delivery.begin(database, one)
    return turn


def begin_all(database: Database, daily: DailyLimits, recipients: int = 500) -> list[Posting]:
    turns = [begin(database, one) for one in claim(database, daily, recipients)]
    return [one for one in turns if isinstance(one, Posting)]


def leaving(postings: Sequence[Posting]) -> int:
    return sum(len(one.claim.recipients) for one in postings)


def spent(database: Database, scope: str = ACCOUNT, time_zone: str = "UTC") -> float:
    """In texts."""
    with database.read() as connection:
        sums = daily_limits.spent_today(connection, wall_clock(connection), time_zone)
    return sums[scope, "KES"] / PRICE


def answer(posting: Posting, cost: str = "KES 0.8000", **outcomes: str) -> SendAnswer:
    """`outcomes`: by the place of a recipient in the POST, as `at_0="rejected"`."""
    recipients = {
        to: RecipientAnswer(
            to, outcomes.get(f"at_{place}", "accepted"), cost=parse_money(cost), cost_raw=cost, parts=1
        )
        for place, to in enumerate(posting.claim.recipients)
    }
    return SendAnswer({}, 201, "Sent", recipients, [])


def reason_of(database: Database, batch_id: int) -> tuple[str, str | None]:
    batch = get_batch(database, batch_id)
    return batch["status"], batch.get("reason")


def key_with_limit(database: Database, name: str, count: float) -> None:
    keys.create(database, name, ["send"], daily_limit=f"KES {Decimal(str(count)) * Decimal('0.8')}")


def batch_by(database: Database, who: str | None, recipients: list[str]) -> int:
    batch_id = delivery.new_batch(database, len(recipients), created_by=who)
    delivery.queue(database, *recipients, batch_id=batch_id, priority=BATCH_PRIORITY)
    return batch_id


def test_a_batch_goes_up_to_the_limit_and_the_rest_waits(priced: Database) -> None:
    batch_id = delivery.queue_batch(priced, phones(20))
    (posting,) = begin_all(priced, of_account(7.9))
    assert leaving([posting]) == 7
    batch = get_batch(priced, batch_id)
    assert (batch["status"], batch["reason"], batch["counts"]) == (
        "paused",
        "daily_limit",
        {"queued": 13, "sending": 7},
    )
    assert batch["explanation"].endswith(": KES 6.32 a day")
    assert delivery.attempt(priced, posting.claim.attempt_id).message_count == 7
    assert spent(priced) == 7
    assert claim(priced, of_account(7.9)) == []


def test_a_limit_of_a_key_that_is_changed_counts_with_what_was_spent_before(priced: Database) -> None:
    key_with_limit(priced, "billing", 2)
    batch_id = batch_by(priced, "key:billing", phones(9))
    assert leaving(begin_all(priced, DailyLimits())) == 2
    assert reason_of(priced, batch_id) == ("paused", "daily_limit")
    keys.change_limit(priced, "billing", "KES 4.00")
    later = batch_by(priced, "key:billing", phones(20)[9:])
    assert leaving(begin_all(priced, DailyLimits())) == 3
    assert reason_of(priced, later) == ("paused", "daily_limit")
    keys.change_limit(priced, "billing", None)
    last = batch_by(priced, "key:billing", phones(25)[20:])
    assert leaving(begin_all(priced, DailyLimits())) == 5
    assert reason_of(priced, last)[0] == "sending"


def test_a_single_text_is_held_and_passes_when_an_approver_releases_it(priced: Database) -> None:
    first, second, third = delivery.queue(priced, *phones(3))
    assert leaving(begin_all(priced, of_account(1))) == 1
    assert delivery.statuses_of(priced) == ["sending", "held", "held"]
    assert delivery.message(priced, second).reason == "daily_limit"
    with pytest.raises(Forbidden) as refused:
        held.release(priced, f"message:{second}", "sam")
    assert refused.value.code == "daily_limit"
    acting.set(APPROVER)
    assert held.release(priced, f"message:{second}", "bob")["status"] == "queued"
    (posting,) = begin_all(priced, of_account(1))
    assert list(posting.claim.recipients.values()) == [second]
    assert spent(priced) == 2
    (noted,) = delivery.every(priced, tables.actions)
    assert (noted.actor, noted.action, noted.subject) == (
        "operator:bob",
        "message.release",
        f"message:{second}",
    )
    assert [first, third] == [
        row.id for row in delivery.every(priced, tables.messages) if not row.passes_limits
    ]
    write_outcome(priced, posting, answer(posting))
    assert audit(priced).problems == []


def test_a_batch_that_is_released_passes_the_limit_to_its_end(priced: Database) -> None:
    batch_id = delivery.queue_batch(priced, phones(6))
    begin_all(priced, of_account(2), recipients=2)
    assert reason_of(priced, batch_id) == ("paused", "daily_limit")
    acting.set(SENDER)
    with pytest.raises(Forbidden):
        control.resume(priced, batch_id)
    acting.set(APPROVER)
    control.resume(priced, batch_id)
    assert leaving(begin_all(priced, of_account(2), recipients=2)) == 4
    assert (spent(priced), reason_of(priced, batch_id)) == (6, ("sending", None))
    single = delivery.queue(priced, phone(50))
    assert begin_all(priced, of_account(2)) == []
    assert delivery.message(priced, single[0]).status == "held"


def test_a_claim_from_before_its_release_does_not_pause_a_batch_again(priced: Database) -> None:
    batch_id = delivery.queue_batch(priced, phones(4))
    first, second = claim(priced, of_account(1), recipients=2)
    begin(priced, first)
    acting.set(APPROVER)
    control.resume(priced, batch_id)
    assert isinstance(begin(priced, second), Released)
    assert reason_of(priced, batch_id) == ("sending", None)
    assert leaving(begin_all(priced, of_account(1))) == 3


def test_a_key_stops_at_its_own_limit_and_others_go_on(priced: Database) -> None:
    key_with_limit(priced, "billing", 2)
    braked = batch_by(priced, "key:billing", phones(3))
    other = batch_by(priced, "key:clinic", phones(3, first=10))
    acting.set(Actor("key:billing"))
    (single,) = delivery.queue(priced, phone(90))
    postings = begin_all(priced, DailyLimits())
    assert leaving(postings) == 5
    assert reason_of(priced, braked) == ("paused", "daily_limit")
    assert get_batch(priced, braked)["explanation"].endswith("KES 1.60 a day for key billing")
    assert reason_of(priced, other) == ("sending", None)
    assert (spent(priced, "key:billing"), spent(priced, "key:clinic"), spent(priced)) == (2, 0, 0)
    assert delivery.message(priced, single).status == "sending"


def test_a_sender_stops_at_its_own_limit(priced: Database, settings: Settings) -> None:
    limits = Settings(database_url=settings.database_url, sender_daily_limits="news=KES 1.60,20880=KES 8")
    daily = DailyLimits.of(limits)
    delivery.queue(priced, *phones(3), sender_id="NEWS")
    delivery.queue(priced, *phones(3, first=10), sender_id="20880")
    delivery.queue(priced, *phones(3, first=20), sender_id="OTHER")
    assert leaving(begin_all(priced, daily)) == 8
    assert (spent(priced, "sender:NEWS"), spent(priced, "sender:20880")) == (2, 3)


def test_an_automatic_reply_over_the_limit_is_held(priced: Database) -> None:
    delivery.queue(priced, phone(1))
    begin_all(priced, of_account(1))
    (reply,) = delivery.queue(priced, phone(2), origin="reply", priority=REPLY_PRIORITY, sender_id="20880")
    assert begin_all(priced, of_account(1)) == []
    assert (delivery.message(priced, reply).status, delivery.message(priced, reply).reason) == (
        "held",
        "daily_limit",
    )


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (answer, 2),
        (lambda posting: answer(posting, "KES 1.2000"), 3),
        (lambda posting: answer(posting, "0"), 0),
        (lambda posting: answer(posting, at_0="rejected"), 1),
        (lambda posting: answer(posting, at_0="not_sent"), 1),
        (lambda posting: answer(posting, at_0="unknown"), 2),
        (lambda posting: answer(posting, "UGX 30.0000"), 0),
        (lambda _posting: ProviderUnreachable(reason="connection_failed"), 0),
        (lambda _posting: OutcomeUnknown(reason="timed_out"), 2),
    ],
)
def test_what_at_answers_takes_the_place_of_the_estimate(
    priced: Database, outcome: Callable[[Posting], Any], expected: float
) -> None:
    delivery.queue_batch(priced, phones(2))
    (posting,) = begin_all(priced, of_account(100))
    assert spent(priced) == 2
    write_outcome(priced, posting, outcome(posting))
    assert spent(priced) == expected
    write_outcome(priced, posting, outcome(posting))
    assert spent(priced) == expected
    delivery.in_write(priced, lambda connection, _now: daily_limits.fold(connection))
    assert spent(priced) == expected
    assert delivery.every(priced, tables.spend_changes) == []


def test_an_answer_that_comes_after_the_sweep_corrects_the_sum_once(priced: Database, clock: Clock) -> None:
    delivery.queue_batch(priced, phones(2))
    (posting,) = begin_all(priced, of_account(100))
    clock.step(minutes=5)
    assert delivery.sweep_leases(priced) == (0, 2)
    assert spent(priced) == 2
    write_outcome(priced, posting, answer(posting, at_1="rejected"))
    assert spent(priced) == 1


def test_a_turn_whose_commit_was_lost_is_counted_once(priced: Database) -> None:
    delivery.queue_batch(priced, phones(3))
    (one,) = claim(priced, of_account(3))
    asked = start_post._Asked(priced, one, delivery.UNHURRIED, LEASE)
    for _ in range(2):
        with priced.write() as connection:
            (turn,) = start_post._begin_postings(connection, [asked])
        assert isinstance(turn, Posting)
        assert leaving([turn]) == 3
    assert spent(priced) == 3


def test_what_the_limits_made_too_late_is_asked_again_and_nothing_of_it_counts(
    priced: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of a batch that is to be paused may be locked for long; a STOP may have come meanwhile."""
    batch_id = delivery.queue_batch(priced, phones(4))
    (one,) = claim(priced, of_account(3))
    keep, waited = start_post.keep_within_limits, [0.0]

    def keep_long(*asked: Any) -> Any:
        kept = keep(*asked)
        waited[0] += start_post.STALE_SECONDS + 1
        return kept

    slow = Rates(1, 1)
    with monkeypatch.context() as late:
        late.setattr(start_post, "keep_within_limits", keep_long)
        late.setattr(start_post, "boot_clock", lambda: boot_clock() + waited[0])
        assert delivery.begin(priced, one, slow) == start_post.Wait(0.0)
    assert (spent(priced), reason_of(priced, batch_id)) == (0, ("sending", None))
    assert delivery.statuses_of(priced) == ["sending"] * 4
    delivery.opt_out(priced, phone(1))
    # The one POST of this second: its tokens are still there.
    turn = delivery.begin(priced, one, slow)
    assert isinstance(turn, Posting)
    assert list(turn.claim.recipients) == phones(3, first=2)
    assert (spent(priced), reason_of(priced, batch_id)) == (3, ("sending", None))


def test_batches_of_one_group_are_paused_in_the_order_in_which_claims_lock_them(priced: Database) -> None:
    """Claim by claim, two machines could wait for each other: PostgreSQL ends one of them."""
    ids = [
        delivery.queue_batch(priced, phones(2, first=10 * number), f"Bulk {number}") for number in range(4)
    ]
    claims = claim(priced, of_account(0.5))
    assert len(claims) == 4
    paused: list[Any] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.startswith("UPDATE batches"):
            values = parameters.values() if isinstance(parameters, dict) else parameters
            paused.extend(one for one in values if one in ids)

    event.listen(priced.engine, "before_cursor_execute", note)
    try:
        asked = [start_post._Asked(priced, one, delivery.UNHURRIED, LEASE) for one in reversed(claims)]
        with priced.write() as connection:
            turns = start_post._begin_postings(connection, asked)
    finally:
        event.remove(priced.engine, "before_cursor_execute", note)
    assert all(isinstance(one, Released) for one in turns)
    assert paused == ids
    assert {reason_of(priced, one) for one in ids} == {("paused", "daily_limit")}


def test_what_is_given_back_before_the_post_is_not_spent(priced: Database) -> None:
    delivery.queue_batch(priced, phones(3))
    (posting,) = begin_all(priced, of_account(3))
    delivery.in_write(priced, lambda connection, now: start_post.give_back(connection, posting.claim, now))
    assert spent(priced) == 0
    assert leaving(begin_all(priced, of_account(3))) == 3


def test_a_day_is_one_of_the_time_zone_and_the_next_begins_at_nothing(priced: Database, clock: Clock) -> None:
    # 23:00 in Nairobi, 20:00 in UTC.
    now = delivery.in_write(priced, lambda _connection, now: now)
    clock.step(seconds=(now.replace(hour=20, minute=0, second=0) - now).total_seconds() % 86400)
    nairobi = DailyLimits(texts_worth(3), time_zone="Africa/Nairobi")
    delivery.queue(priced, *phones(4))
    (posting,) = begin_all(priced, nairobi)
    clock.step(hours=2)
    write_outcome(priced, posting, answer(posting, at_0="rejected"))
    delivery.queue(priced, phone(10))
    assert leaving(begin_all(priced, nairobi)) == 1
    assert spent(priced, time_zone="Africa/Nairobi") == 1
    yesterday, today = delivery.every(priced, tables.daily_spend)
    assert (yesterday.micros, today.micros) == (2 * PRICE, PRICE)
    assert delivery.statuses_of(priced).count("held") == 1


def test_a_limit_that_is_newly_set_counts_what_was_spent_today(priced: Database) -> None:
    for sender_id, count in (("NEWS", 3), ("OTHER", 4)):
        delivery.queue(priced, *phones(count, first=len(sender_id) * 100), sender_id=sender_id)
    for posting in begin_all(priced, DailyLimits()):
        write_outcome(priced, posting, answer(posting))
    delivery.queue(priced, *phones(5, first=50), sender_id="NEWS")
    daily = DailyLimits(texts_worth(9), {"NEWS": texts_worth(4, "sender:NEWS")})
    assert leaving(begin_all(priced, daily)) == 1
    assert (spent(priced), spent(priced, "sender:NEWS")) == (8, 4)


@pytest.mark.parametrize("days", [0, 1])
def test_a_limit_that_was_not_set_for_a_while_counts_what_was_spent_meanwhile(
    priced: Database, clock: Clock, days: int
) -> None:
    def start_and_send(daily: DailyLimits, recipients: list[str]) -> int:
        # What a process knows ends with it.
        daily_limits._known_here.clear()
        delivery.queue(priced, *recipients)
        postings = begin_all(priced, daily)
        for posting in postings:
            write_outcome(priced, posting, answer(posting))
        return leaving(postings)

    limited = DailyLimits(texts_worth(9))
    assert start_and_send(limited, phones(2)) == 2
    clock.step(days=days)
    assert start_and_send(DailyLimits(), phones(4, first=20)) == 4
    assert start_and_send(limited, phones(9, first=40)) == (5 if days else 3)
    assert spent(priced) == 9
    # Started again it finds all of it.
    assert start_and_send(DailyLimits(texts_worth(10)), phones(2, first=60)) == 1


def test_without_any_price_texts_go_until_an_answer_tells_one(database: Database) -> None:
    delivery.queue_batch(database, phones(4))
    (posting,) = begin_all(database, of_account(2))
    assert (leaving([posting]), spent(database)) == (4, 0)
    write_outcome(database, posting, answer(posting))
    assert spent(database) == 4
    (late,) = delivery.queue(database, phone(30))
    assert begin_all(database, of_account(2)) == []
    assert delivery.message(database, late).status == "held"


def test_what_had_no_price_at_its_claim_counts_with_the_one_that_was_learnt_since(database: Database) -> None:
    delivery.queue_batch(database, phones(5))
    first, second, third = claim(database, of_account(4), recipients=2)
    posting = begin(database, first)
    assert isinstance(posting, Posting)
    write_outcome(database, posting, answer(posting))
    lost = begin(database, second)
    assert isinstance(lost, Posting)
    assert isinstance(begin(database, third), Released)
    assert spent(database) == 4
    write_outcome(database, lost, OutcomeUnknown(reason="timed_out"))
    assert spent(database) == 4


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_fold_passes_by_what_was_folded_long_ago_and_misses_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a long transaction that is still in the table: a look at all for each POST would take ever longer."""
    passed, looks = [0.0], []
    monkeypatch.setattr(daily_limits, "monotonic", lambda: passed[0])

    def change_and_fold(row_id: int, seconds: float = 0.0) -> None:
        passed[0] += seconds
        row = {"id": row_id, "day": "2026-01-01", "scope": ACCOUNT, "currency": "KES", "micros": 1}
        delivery.in_write(
            database, lambda connection, _now: connection.execute(insert(tables.spend_changes).values(row))
        )
        delivery.in_write(database, lambda connection, _now: daily_limits.fold(connection))

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.startswith("SELECT spend_changes"):
            looks.append(parameters["after_id"])

    def folded() -> int:
        return sum(row.micros for row in delivery.every(database, tables.daily_spend))

    event.listen(database.engine, "before_cursor_execute", note)
    later = daily_limits.FOLD_ALL_SECONDS + 1
    change_and_fold(10)
    change_and_fold(11)
    change_and_fold(12, later)
    change_and_fold(13, later)
    change_and_fold(14)
    assert (looks, folded()) == ([0, 0, 0, 0, 12], 5)
    # Its transaction began long ago: it counts for who looks, and is folded by the next look at all.
    change_and_fold(5)
    assert (folded(), delivery.count(database, tables.spend_changes)) == (5, 1)
    change_and_fold(15, later)
    assert (folded(), delivery.count(database, tables.spend_changes)) == (7, 0)
    event.remove(database.engine, "before_cursor_execute", note)


def test_an_unknown_price_is_not_nothing_where_another_is_known(priced: Database) -> None:
    delivery.queue(priced, "+256772000077", text="Elsewhere", sender_id="NEVER_USED")
    assert leaving(begin_all(priced, of_account(10))) == 1
    assert spent(priced) == 1


def test_a_limit_in_another_currency_than_the_prices_counts_nothing(priced: Database) -> None:
    delivery.queue_batch(priced, phones(3))
    daily = DailyLimits(Limit(ACCOUNT, 1, "USD"))
    assert leaving(begin_all(priced, daily)) == 3


def test_where_nothing_is_limited_nothing_is_written(priced: Database) -> None:
    delivery.queue_batch(priced, phones(3))
    (posting,) = begin_all(priced, DailyLimits())
    write_outcome(priced, posting, answer(posting))
    assert posting.claim.charges is None
    assert delivery.every(priced, tables.daily_spend) == []
    assert delivery.attempt(priced, posting.claim.attempt_id).counted is None


@pytest.fixture
def machines(priced: Database) -> Iterator[list[Database]]:
    """Processes of their own, as far as the database can tell."""
    others = [Database(priced.engine.url.render_as_string(hide_password=False)) for _ in range(4)]
    for one in others:
        # With the machine's own clock they would count for another day whenever the test runs in the afternoon.
        one.clocks.wall, one.clocks.boot = priced.clocks.wall, priced.clocks.boot
    yield others
    for one in others:
        one.close()


def test_workers_at_the_last_shilling_together_never_pass_it(
    priced: Database, machines: list[Database]
) -> None:
    """Each holds claims from before the limit was near, and all ask at once."""
    daily = of_account(41.5)
    for number in range(8):
        delivery.queue_batch(priced, phones(12, first=number * 20), text=f"Bulk {number}")
    delivery.queue(priced, *phones(12, first=500))
    claims = claim(priced, daily, recipients=4)
    assert len(claims) == 27
    start, admitted = threading.Barrier(len(machines)), []

    def ask(machine: Database, mine: list[Claim]) -> None:
        start.wait(20)
        for one in mine:
            turn = begin(machine, one)
            if isinstance(turn, Posting):
                admitted.append(turn)

    lanes = [
        threading.Thread(target=ask, args=(machine, claims[place :: len(machines)]))
        for place, machine in enumerate(machines)
    ]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join(60)
    assert leaving(admitted) == 41
    assert spent(priced) == 41


def settings_with(at_settings: Settings, **values: Any) -> Settings:
    return at_settings.model_copy(update=values)


def test_a_trigger_over_the_limit_sends_nothing_and_says_why(
    priced: Database, at_settings: Settings, fake_at: FakeProvider, client: ProviderClient
) -> None:
    limit = Money(Decimal("1.6"), "KES")
    sender = TriggerSender(settings_with(at_settings, daily_limit=limit), priced, client)
    sender.send_now("Hello", [phone(1)], None)
    with pytest.raises(DailyLimitReached) as refused:
        sender.send_now("Hello", phones(2, first=2), None, "a-key")
    assert (refused.value.code, len(fake_at.posts)) == ("daily_limit", 1)
    assert delivery.statuses_of(priced) == ["accepted", "cancelled", "cancelled"]
    assert {row.reason for row in delivery.every(priced, tables.messages)} == {None, "daily_limit"}
    # With its key it may be tried again, for nothing was sent.
    raised = TriggerSender(settings_with(at_settings, daily_limit=Money(Decimal(80), "KES")), priced, client)
    raised.send_now("Hello", phones(2, first=2), None, "a-key")
    assert (len(fake_at.posts), spent(priced)) == (2, 3)
