from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Row, select, update

from messaging.callbacks.receive import CallbackReceiver
from messaging.consent import ledger
from messaging.conversations import handler_runner
from messaging.conversations.handler_runner import MOST_LOST_TRIES, MOST_TRIES, WAITS, Answerer, answer, claim
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.delivery import Clock
from utils.settings import Settings

PHONE = "+254711000001"
LEASE = timedelta(seconds=30)
REPLIES = """
from messaging.conversations.handlers import Inbound, on_keyword

@on_keyword("GOOD")
def good(message: Inbound) -> list[str]:
    return ["one", "two"]

@on_keyword("BAD")
def bad(message: Inbound) -> str:
    raise LookupError("no such account")

@on_keyword("ODD")
def odd(message: Inbound) -> str:
    raise LookupError("no \\ud83d here")

@on_keyword("SAME")
def same(message: Inbound) -> str:
    return "same"
"""


@pytest.fixture
def answering_settings(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "replies.py"
    path.write_text(REPLIES)
    return settings.model_copy(update={"replies_file": str(path)})


@pytest.fixture
def clock(database: Database) -> Clock:
    return Clock(database)


@contextmanager
def open_inbox(database: Database, settings: Settings) -> Iterator[CallbackReceiver]:
    inbox = CallbackReceiver(database, settings)
    try:
        yield inbox
    finally:
        inbox.stop()


def receive(database: Database, settings: Settings, *texts: str, first: int = 1) -> None:
    with open_inbox(database, settings) as inbox:
        for number, text in enumerate(texts, first):
            fields = {"from": PHONE, "to": "20880", "text": text, "id": f"in-{number}", "linkId": "L7"}
            inbox.receive("inbound", urlencode(fields).encode())


def inbound(database: Database) -> list[Row[Any]]:
    with database.read() as connection:
        return list(
            connection.execute(select(tables.inbound_messages).order_by(tables.inbound_messages.c.id))
        )


def sent(database: Database) -> list[Row[Any]]:
    with database.read() as connection:
        return list(connection.execute(select(tables.messages).order_by(tables.messages.c.id)))


def test_a_text_waits_for_its_handler_and_its_texts_are_queued_with_the_outcome(
    database: Database, answering_settings: Settings
) -> None:
    receive(database, answering_settings, "good", "else")
    assert [row.reply_outcome for row in inbound(database)] == ["waiting", "queued"]
    (job,) = claim(database, LEASE, 10)
    answer(answering_settings, database, job)
    assert [(row.text, row.inbound_id, row.link_id) for row in sent(database)][1:] == [
        ("one", job.id, "L7"),
        ("two", job.id, "L7"),
    ]
    row = inbound(database)[0]
    assert (row.reply_outcome, row.reply_tries, row.reply_due_at) == ("queued", 1, None)


def test_a_claimed_text_is_nobody_else_s_until_its_lease_ends(
    database: Database, answering_settings: Settings, clock: Clock
) -> None:
    receive(database, answering_settings, "good")
    (first,) = claim(database, LEASE, 10)
    assert claim(database, LEASE, 10) == []
    clock.step(seconds=31)
    (second,) = claim(database, LEASE, 10)
    assert (first.number, second.number) == (1, 2)


def test_only_one_of_two_that_answer_a_text_has_effect(
    database: Database, answering_settings: Settings, clock: Clock
) -> None:
    receive(database, answering_settings, "good")
    (slow,) = claim(database, LEASE, 10)
    clock.step(seconds=31)
    (quick,) = claim(database, LEASE, 10)
    answer(answering_settings, database, slow)
    assert sent(database) == []
    answer(answering_settings, database, quick)
    answer(answering_settings, database, slow)
    answer(answering_settings, database, quick)
    assert len(sent(database)) == 2


def test_workers_that_claim_at_the_same_moment_share_the_texts(
    database: Database, answering_settings: Settings
) -> None:
    receive(database, answering_settings, *["good"] * 12)
    claimed: list[int] = []

    def work() -> None:
        while jobs := claim(database, LEASE, 2):
            claimed.extend(job.id for job in jobs)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # A worker that finds all rows locked leaves; what is left then is due still.
    claimed.extend(job.id for job in claim(database, LEASE, 100))
    assert sorted(claimed) == [row.id for row in inbound(database)]


def test_a_handler_that_raises_is_tried_again_ever_later_and_then_shown_as_failed(
    database: Database, answering_settings: Settings, clock: Clock
) -> None:
    receive(database, answering_settings, "bad")
    for wait in WAITS:
        (job,) = claim(database, LEASE, 10)
        answer(answering_settings, database, job)
        (row,) = inbound(database)
        assert row.reply_outcome == "waiting"
        assert row.reply_error == "line 10: LookupError: no such account"
        assert claim(database, LEASE, 10) == []
        clock.step(seconds=wait.total_seconds() + 1)
    (job,) = claim(database, LEASE, 10)
    answer(answering_settings, database, job)
    (row,) = inbound(database)
    assert (row.reply_outcome, row.reply_tries) == ("failed", MOST_TRIES)
    assert "LookupError" in row.reply_error
    assert sent(database) == []


def test_an_error_in_whatever_words_is_kept(database: Database, answering_settings: Settings) -> None:
    receive(database, answering_settings, "odd")
    (job,) = claim(database, LEASE, 10)
    answer(answering_settings, database, job)
    assert inbound(database)[0].reply_error.endswith("LookupError: no \ufffd here")


def test_a_text_over_which_handlers_hang_is_given_up(
    database: Database, answering_settings: Settings, clock: Clock
) -> None:
    receive(database, answering_settings, "good")
    for _ in range(MOST_LOST_TRIES):
        assert len(claim(database, LEASE, 10)) == 1
        clock.step(seconds=31)
    assert claim(database, LEASE, 10) == []
    (row,) = inbound(database)
    assert (row.reply_outcome, row.reply_error) == ("failed", handler_runner.NO_ANSWER)


def test_a_text_whose_handler_is_gone_gets_the_template(
    database: Database, answering_settings: Settings, settings: Settings
) -> None:
    receive(database, answering_settings, "good")
    (job,) = claim(database, LEASE, 10)
    answer(settings, database, job)
    assert [row.text for row in sent(database)] == ['This is a response to: "good"']


def test_a_handler_sees_a_possible_opt_out_and_without_one_there_is_no_echo(
    database: Database, answering_settings: Settings, settings: Settings
) -> None:
    receive(database, answering_settings, "GOOD stop", "SAME, stop it")
    mine, orphan = claim(database, LEASE, 8)
    answer(answering_settings, database, mine)
    answer(settings, database, orphan)
    assert [row.possible_opt_out for row in inbound(database)] == [True, True]
    assert [row.text for row in sent(database)] == ["one", "two"]


def test_who_opted_out_meanwhile_gets_no_answer(database: Database, answering_settings: Settings) -> None:
    receive(database, answering_settings, "good")
    (job,) = claim(database, LEASE, 10)
    with database.write() as connection:
        ledger.record_stop(connection, PHONE, "all", None, "api")
    answer(answering_settings, database, job)
    assert inbound(database)[0].reply_outcome == "opted_out"
    assert sent(database) == []


def test_answers_of_handlers_are_held_by_the_loop_breaker_too(
    database: Database, answering_settings: Settings
) -> None:
    looping = answering_settings.model_copy(update={"loop_limit": 2})
    receive(database, looping, "same", "same", "same")
    for job in claim(database, LEASE, 10):
        answer(looping, database, job)
    assert sorted(row.reply_outcome for row in inbound(database)) == ["held", "queued", "queued"]
    assert [row.held_texts for row in inbound(database) if row.reply_outcome == "held"] == ['["same"]']


def test_an_answerer_works_until_it_is_stopped(database: Database, answering_settings: Settings) -> None:
    stopping = threading.Event()
    answerer = Answerer(answering_settings, database, stopping)
    thread = threading.Thread(target=answerer.run)
    thread.start()
    receive(database, answering_settings, *["good"] * 20)
    answerer.nudge()
    done = threading.Event()
    for _ in range(200):
        if len(sent(database)) + 2 * _held(database) >= 40:
            break
        done.wait(0.05)
    stopping.set()
    answerer.nudge()
    thread.join(15)
    assert not thread.is_alive()
    assert {row.reply_outcome for row in inbound(database)} == {"queued", "held"}


def _held(database: Database) -> int:
    return sum(row.reply_outcome == "held" for row in inbound(database))


def test_a_claim_that_finds_nothing_writes_nothing(database: Database, answering_settings: Settings) -> None:
    receive(database, answering_settings, "good")
    with database.write() as connection:
        connection.execute(update(tables.inbound_messages).values(reply_outcome="queued"))
    with database.write():
        # On SQLite a second writer would wait here for the first.
        assert claim(database, LEASE, 10) == []
