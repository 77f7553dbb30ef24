"""The judge must be able to condemn: one broken promise of each kind, in books that are otherwise in order."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.crash.books import Books, Taken
from tests.crash.causes import FAULT, KILLED_SENDER, KILLED_SIMULATOR, TOO_SLOW, explain_unknowns
from tests.crash.chaos import Kill
from tests.crash.judge import REPLY, judge
from tests.crash.load import API, INBOUND, TRIGGER, Promise

PHONE, LOSSY = "+254700000110", "+254700000171"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEAD_WORKER = "host:4194305:1"
KEY = (PHONE, "Text")
TAKEN = Taken(PHONE, "Text", "ATXid_1", is_received=True, report="Success")


def row(**values: Any) -> Any:
    usual = {
        "id": 7,
        "status": "delivered",
        "provider_message_id": "ATXid_1",
        "attempt_id": 3,
        "inbound_id": None,
    }
    return SimpleNamespace(**usual | {"recipient": PHONE, "text": "Text"} | values)


def books(**values: Any) -> Books:
    """One text, delivered and received once."""
    in_order: dict[str, Any] = {
        "messages": {KEY: [row()]},
        "attempts": {},
        "turned_unknown": [],
        "recipients_of": {},
        "recipient_of": {7: PHONE},
        "inbound": {},
        "taken": {KEY: [TAKEN]},
        "received": {KEY: 1},
        "counts": {},
    }
    return Books(**in_order | values)


def promise(kind: str, outcome: str, **answer: Any) -> Promise:
    return Promise(kind, "key", "Text", [PHONE], {}, outcome, answer)


SENT = {"SMSMessageData": {"Recipients": [{"number": PHONE, "statusCode": 102, "messageId": "ATXid_1"}]}}
ACCEPTED = promise(API, "accepted", messages=[{"to": PHONE, "id": 7}])
TRIGGERED = promise(TRIGGER, "accepted", response=SENT)


@pytest.mark.parametrize("kept", [ACCEPTED, TRIGGERED], ids=["api", "trigger"])
def test_records_in_order_are_not_condemned(kept: Promise) -> None:
    assert judge(books(), [kept], []) == []


BROKEN = {
    "received twice": (books(received={KEY: 2}), ACCEPTED, "was received 2 times"),
    "accepted twice": (
        books(taken={KEY: [TAKEN, TAKEN._replace(provider_id="ATXid_2")]}),
        ACCEPTED,
        "was accepted by AT 2 times",
    ),
    "sent without a message": (
        books(taken={KEY: [TAKEN], (PHONE, "Other"): [TAKEN]}),
        ACCEPTED,
        "no message tells of it",
    ),
    "lost": (books(messages={}, taken={}, received={}), ACCEPTED, "the books have []"),
    "accepted into two messages": (
        books(messages={KEY: [row(), row(id=8)]}),
        ACCEPTED,
        "the books have [7, 8]",
    ),
    "delivered, but not to the phone": (
        books(taken={KEY: [TAKEN._replace(is_received=False)]}),
        ACCEPTED,
        "no phone has it",
    ),
    "rejected, but sent": (
        books(messages={KEY: [row(status="rejected", provider_message_id=None)]}),
        ACCEPTED,
        "was sent, but its messages say",
    ),
    "with the id of another text": (
        books(messages={KEY: [row(provider_message_id="ATXid_9")]}),
        ACCEPTED,
        "an id that AT gave to another text",
    ),
    "reported and still accepted": (
        books(messages={KEY: [row(status="accepted")]}),
        ACCEPTED,
        "AT's report says",
    ),
    "left in the queue": (
        books(messages={KEY: [row(status="queued", provider_message_id=None)]}, taken={}, received={}),
        ACCEPTED,
        "is queued without AT's id",
    ),
    "unknown, though a report told of it": (
        books(messages={KEY: [row(status="unknown", provider_message_id=None)]}),
        ACCEPTED,
        "though a report told of it",
    ),
    "a trigger answered as sent with another id": (
        books(messages={KEY: [row(provider_message_id=None, status="unknown")]}),
        TRIGGERED,
        "answered as sent",
    ),
    "a trigger answered as unknown that never was": (
        books(),
        promise(TRIGGER, "unknown"),
        "the books never said so",
    ),
    "a trigger answered as not sent that was": (books(), promise(TRIGGER, "refused"), "AT took"),
    "no definite answer": (books(), promise(API, "open"), "no definite answer"),
    "an inbound text lost": (books(), promise(INBOUND, "accepted"), "the text of a person is lost"),
    "an inbound text answered twice": (
        books(
            inbound={"key": SimpleNamespace(id=4)},
            messages={KEY: [row()], (PHONE, REPLY.format("Text")): [row(inbound_id=4), row(inbound_id=4)]},
        ),
        promise(INBOUND, "accepted"),
        "answered 2 times",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found(name: str) -> None:
    seen, made, words = BROKEN[name]
    assert any(words in problem for problem in judge(seen, [made], [])), judge(seen, [made], [])


def attempt(**values: Any) -> Any:
    usual = {"id": 3, "outcome": "unknown", "reason": "connection_lost", "worker": DEAD_WORKER}
    times = {"posting_at": NOON, "finished_at": NOON + timedelta(seconds=1)}
    return SimpleNamespace(**usual | times | values)


def explain(of: Any, source: str = "provider", phone: str = PHONE, kills: tuple[Kill, ...] = ()) -> list[str]:
    """The causes found; empty where the message is named as unexplained."""
    event = SimpleNamespace(message_id=7, attempt_id=3, source=source)
    seen = books(
        turned_unknown=[event], attempts={3: of}, recipients_of={3: [phone]}, recipient_of={7: phone}
    )
    causes, unexplained = explain_unknowns(seen, kills, deadline_seconds=4)
    assert bool(causes) != bool(unexplained)
    return list(causes)


def test_an_unknown_is_explained_only_by_what_really_happened() -> None:
    kill = Kill("simulator", NOON + timedelta(seconds=0.5), NOON + timedelta(seconds=2))
    earlier = replace(kill, at=NOON - timedelta(seconds=9), back_at=NOON - timedelta(seconds=8))

    assert explain(attempt()) == []
    assert explain(attempt(), phone=LOSSY) == [FAULT]
    assert explain(attempt(), kills=(kill,)) == [KILLED_SIMULATOR]
    assert explain(attempt(), kills=(earlier, replace(kill, name="web"))) == []
    assert explain(attempt(reason="timed_out")) == []
    assert explain(attempt(reason="timed_out", finished_at=NOON + timedelta(seconds=4))) == [TOO_SLOW]
    assert explain(attempt(outcome="answered"), kills=(kill,)) == []
    assert explain(attempt(outcome="answered"), phone=LOSSY) == [FAULT]


def test_a_sweep_is_explained_only_by_a_sender_that_was_killed() -> None:
    from_this_process = attempt(worker=f"host:{os.getpid()}:1")
    kill = Kill("worker", NOON + timedelta(seconds=1))

    assert explain(attempt(), source="sweep", kills=(kill,)) == [KILLED_SENDER]
    assert explain(from_this_process, source="sweep", kills=(kill,)) == []
    assert explain(attempt(), source="sweep") == []
    assert explain(attempt(), source="sweep", kills=(replace(kill, at=NOON - timedelta(seconds=1)),)) == []
    assert explain(attempt(), source="sweep", kills=(replace(kill, name="simulator"),)) == []
