"""The stand-in that test keys meet, through the real client: AT's form and answers, and no socket."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from decimal import Decimal

import pytest

from simulator import outcomes as simulated
from utils import provider_stand_in
from utils.errors import OutcomeUnknown, ProviderError
from utils.money import Money
from utils.provider_stand_in import CannotKeep, ProviderStandIn, outcome_of
from utils.sms_utils import ProviderClient

ENDINGS = [*simulated.BY_LAST_DIGITS, *provider_stand_in.BY_LAST_DIGITS, "0000", "1234"]


class Kept:
    """What the stand-in gave to be kept."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, bodies: Sequence[bytes]) -> None:
        self.bodies += bodies


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def client(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> ProviderClient:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return ProviderClient("test-keys", "test-keys", "http://test-keys.invalid", adapter=ProviderStandIn(kept))


@pytest.mark.parametrize("ending", sorted(set(ENDINGS)))
def test_every_number_ends_as_it_does_in_the_simulator(ending: str) -> None:
    number = f"+25471100{ending}"
    ours, theirs = outcome_of(number), simulated.outcome_of(number)
    assert (ours.refusal, ours.report, ours.failure_reason, ours.hangs) == (
        theirs.refusal,
        theirs.report,
        theirs.failure_reason,
        theirs.hangs,
    )
    assert provider_stand_in.REFUSALS == simulated.REFUSAL_WORDS


def test_an_answer_is_read_as_any_of_the_provider(client: ProviderClient, kept: Kept) -> None:
    answer = client.send_texts("x" * 200, ["+254711000001", "+254711000406"], "20880")

    taken, refused = answer.recipients["+254711000001"], answer.recipients["+254711000406"]
    assert (taken.outcome, refused.outcome) == ("accepted", "rejected")
    entry = answer.raw["SMSMessageData"]["Recipients"][0]
    assert (entry["cost"], entry["messageParts"], entry["statusCode"]) == ("KES 1.6000", 2, 102)
    assert answer.raw["SMSMessageData"]["Message"] == "Sent to 1/2 Total Cost: KES 1.6000"
    (report,) = kept.bodies
    assert report.decode() == (
        f"phoneNumber=%2B254711000001&retryCount=0&id={entry['messageId']}&status=Success&networkCode=99999"
    )


def test_the_reports_say_what_the_last_digits_choose(client: ProviderClient, kept: Kept) -> None:
    client.send_texts("Hi", ["+254711000900", "+254711000901", "+254711000902"], None)

    failed, absent = kept.bodies
    assert b"failureReason=DeliveryFailure" in failed
    assert b"status=Failed" in failed
    assert b"status=AbsentSubscriber" in absent


def test_a_lost_answer_is_unknown_at_once_and_its_reports_are_kept(
    client: ProviderClient, kept: Kept
) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        client.send_texts("Hi", ["+254711000903"], None)
    assert (caught.value.reason, caught.value.unknown) == ("timed_out", ["+254711000903"])
    assert len(kept.bodies) == 1


def test_a_post_whose_reports_cannot_be_kept_was_certainly_not_sent() -> None:
    def refuse(_: Sequence[bytes]) -> None:
        raise CannotKeep

    client = ProviderClient("test-keys", "key", "http://test-keys.invalid", adapter=ProviderStandIn(refuse))
    with pytest.raises(ProviderError) as caught:
        client.send_texts("Hi", ["+254711000001"], None)
    assert (caught.value.outcome, caught.value.retryable) == ("not_sent", True)


def test_the_questions_have_answers_too(client: ProviderClient) -> None:
    assert client.fetch_balance() == Money(Decimal("1000000.0000"), "KES")
    assert client.fetch_inbox() == []
