from __future__ import annotations

from datetime import timedelta

import pytest

from messaging.consent import ledger
from messaging.sending import answer_effects, circuit_breaker, pauses
from messaging.sending.claim import Claim
from messaging.sending.start_post import Posting
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from messaging.storage.identity import Identity
from tests.support.delivery import Clock, every, in_write, phone, phones
from utils.errors import (
    CredentialsRefused,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnreachable,
    SenderRefused,
)
from utils.provider_answers import RecipientAnswer

pytest_plugins = ["tests.support.delivery_fixtures"]

NO_MONEY = RecipientAnswer(phone(9), "not_sent", "insufficient_balance", 405, pauses="account")


def claim_of(*, is_trigger: bool = False) -> Claim:
    return Claim(7, "Hello", "Acme", None, {phone(1): 1}, urgent=True, is_trigger=is_trigger)


def learn(database: Database, *answers: RecipientAnswer, is_trigger: bool = False) -> None:
    by_number = {answer.number: answer for answer in answers}
    claim = claim_of(is_trigger=is_trigger)
    in_write(
        database,
        lambda connection, now: answer_effects.from_answer(database, connection, claim, by_number, now),
    )


def learn_failure(database: Database, error: ProviderError) -> None:
    in_write(
        database,
        lambda connection, now: answer_effects.from_failure(
            connection, Posting(claim_of(), now, 0.0, Identity("an id", b"a key")), error, now
        ),
    )


def paused(database: Database) -> dict[str, str]:
    return {row.name: row.reason for row in every(database, tables.pauses)}


def pause(database: Database, *names: str) -> None:
    with database.write() as connection:
        for name in names:
            pauses.pause(connection, name, "why", None, wall_clock(connection))


def step(database: Database) -> int:
    return int(in_write(database, circuit_breaker.current).step)


def test_a_5xx_that_asks_for_a_break_gets_it_though_it_leaves_the_texts_unknown(
    database: Database, clock: Clock
) -> None:
    learn_failure(database, OutcomeUnknown(reason="http_503", http_status=503, retry_after=90.0))

    def waits() -> bool:
        return bool(
            in_write(database, lambda connection, now: circuit_breaker.current(connection, now).waits(now))
        )

    clock.step(seconds=89)
    assert waits()
    clock.step(seconds=2)
    assert not waits()


@pytest.mark.parametrize(
    ("error", "steps"),
    [
        (OutcomeUnknown(reason="timed_out"), 1),
        (OutcomeUnknown(reason="http_503", http_status=503), 1),
        (ProviderUnreachable(reason="connection_failed"), 1),
        # Refused before anything was asked of AT: it says nothing about the road.
        (ProviderRefused(reason="unwritable"), 0),
        (ProviderRefused(reason="http_400", http_status=400), 0),
        (CredentialsRefused(reason="credentials_refused", http_status=401), 0),
    ],
    ids=lambda one: getattr(one, "reason", ""),
)
def test_only_a_post_without_an_answer_narrows_the_road(
    database: Database, error: ProviderError, steps: int
) -> None:
    learn_failure(database, error)
    assert step(database) == steps


@pytest.mark.parametrize(
    "error",
    [ProviderRefused(reason="http_400", http_status=400), SenderRefused(reason="no", http_status=201)],
)
def test_a_refusal_is_an_answer_and_opens_the_road(database: Database, error: ProviderError) -> None:
    learn_failure(database, OutcomeUnknown(reason="timed_out"))
    learn_failure(database, error)
    assert step(database) == 0


def test_a_text_that_no_request_can_carry_leaves_a_narrow_road_as_it_is(database: Database) -> None:
    learn_failure(database, OutcomeUnknown(reason="timed_out"))
    learn_failure(database, ProviderRefused(reason="unwritable"))
    assert step(database) == 1


@pytest.mark.parametrize(("retry_after", "seconds"), [(30.0, 30), (None, 5)])
def test_a_429_holds_everything_for_as_long_as_at_asks(
    database: Database, clock: Clock, retry_after: float | None, seconds: int
) -> None:
    learn_failure(database, ProviderThrottled(reason="throttled", http_status=429, retry_after=retry_after))
    found, now = in_write(database, lambda connection, now: (circuit_breaker.current(connection, now), now))
    assert found.waits(now)
    assert found.waits(now + timedelta(seconds=seconds - 1))
    assert not found.waits(now + timedelta(seconds=seconds))


def test_the_reason_of_a_pause_is_kept_with_ats_words(database: Database) -> None:
    learn_failure(database, CredentialsRefused(reason="credentials_refused", http_status=401))
    (row,) = every(database, tables.pauses)
    assert (row.name, row.reason) == ("account", "credentials_refused")
    assert "AT_API_KEY" in row.detail


def test_a_refused_sender_pauses_that_sender_alone(database: Database) -> None:
    learn_failure(database, SenderRefused(reason="invalid_sender_id", http_status=201))
    assert paused(database) == {"sender:ACME": "invalid_sender_id"}


def test_one_recipient_without_money_pauses_the_account_though_others_were_accepted(
    database: Database,
) -> None:
    learn(database, RecipientAnswer(phone(1), "accepted"), NO_MONEY)
    assert paused(database) == {"account": "insufficient_balance"}


def test_a_trigger_that_got_through_lifts_the_pauses_it_disproves(database: Database) -> None:
    pause(database, "account", "sender:ACME", "sender:OTHER")
    learn(database, RecipientAnswer(phone(1), "accepted"), is_trigger=True)
    assert set(paused(database)) == {"sender:OTHER"}


def test_a_worker_that_got_through_lifts_nothing(database: Database) -> None:
    """Its POST may have left before the pause."""
    pause(database, "account")
    learn(database, RecipientAnswer(phone(1), "accepted"))
    assert set(paused(database)) == {"account"}


@pytest.mark.parametrize(
    "answers", [[RecipientAnswer(phone(1), "rejected")], [RecipientAnswer(phone(1), "accepted"), NO_MONEY]]
)
def test_a_trigger_that_proves_nothing_lifts_nothing(
    database: Database, answers: list[RecipientAnswer]
) -> None:
    pause(database, "account")
    learn(database, *answers, is_trigger=True)
    assert set(paused(database)) == {"account"}


def test_every_blacklisted_recipient_is_suppressed_for_the_sender(database: Database) -> None:
    learn(database, *(RecipientAnswer(number, "rejected", suppresses=True) for number in phones(3)))
    with database.read() as connection:
        assert ledger.suppressed(connection, phones(4), "ACME") == set(phones(3))
        assert ledger.suppressed(connection, phones(4), None) == set()
