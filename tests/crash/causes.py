"""Why a message became `unknown`: each time there must be a lost answer, and here is how it was lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row

from tests.crash.books import Books
from tests.crash.chaos import Kill
from tests.crash.numbers import LOSES_ANSWER

KILLED_SENDER, FAULT, KILLED_SIMULATOR, TOO_SLOW = (
    "its sender was killed",
    "a fault of the simulator",
    "the simulator was killed",
    "no answer within the deadline",
)
# The client gives up at its deadline, by its own clock; the rows are dated by the database's.
CLOCK_SLACK = timedelta(seconds=0.1)


def explain_unknowns(
    books: Books, kills: Sequence[Kill], deadline_seconds: float
) -> tuple[Counter[str], list[str]]:
    """How often each cause made a message unknown, and the messages for which there is none."""
    causes: Counter[str] = Counter()
    unexplained = []
    for event in books.turned_unknown:
        attempt = books.attempts[event.attempt_id]
        found = next(_causes(event, attempt, books, kills, timedelta(seconds=deadline_seconds)), None)
        if found is None:
            unexplained.append(f"message {event.message_id} became unknown without a lost answer: {attempt}")
        else:
            causes[found] += 1
    return causes, unexplained


def _causes(
    event: Row[Any], attempt: Row[Any], books: Books, kills: Sequence[Kill], deadline: timedelta
) -> Iterator[str]:
    if event.source == "sweep":
        if not _is_alive(attempt.worker) and any(_may_have_sent(kill, attempt) for kill in kills):
            yield KILLED_SENDER
        return
    if attempt.outcome == "answered":
        # The POST was answered; only this recipient's part of it was left out or left open.
        if books.recipient_of[event.message_id].endswith(LOSES_ANSWER):
            yield FAULT
        return
    if any(one.endswith(LOSES_ANSWER) for one in books.recipients_of[attempt.id]):
        yield FAULT
    if any(_overlap(attempt, kill) for kill in kills if kill.name == "simulator"):
        yield KILLED_SIMULATOR
    if attempt.reason == "timed_out" and attempt.finished_at - attempt.posting_at >= deadline - CLOCK_SLACK:
        yield TOO_SLOW


def _may_have_sent(kill: Kill, attempt: Row[Any]) -> bool:
    return bool(kill.name in ("web", "worker") and kill.at >= attempt.posting_at - CLOCK_SLACK)


def _overlap(attempt: Row[Any], kill: Kill) -> bool:
    back_at = kill.back_at or attempt.finished_at
    return bool(attempt.posting_at <= back_at and kill.at <= attempt.finished_at)


def _is_alive(worker: str) -> bool:
    """`worker`: host, process id and thread id, with colons between."""
    try:
        os.kill(int(worker.split(":")[1]), 0)
    except ProcessLookupError:
        return False
    return True
