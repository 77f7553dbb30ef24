"""Texts found by their words, on both stores; and nothing found, nor left in the index, once they are erased."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text, update

from messaging.messages import search
from messaging.messages.views import MessageFilters, list_messages
from messaging.operations import sweep
from messaging.storage import tables
from messaging.storage.database import Database
from tests.support import delivery
from tests.support.databases import is_anybody_blocked
from tests.support.delivery import Clock
from tests.support.stack import eventually
from utils.errors import InvalidInput
from utils.settings import Settings

pytest_plugins = ["tests.support.delivery_fixtures"]
TEXTS = (
    "School closes at NOON",
    "The clinic opens at noon",
    "Écoles fermées demain",
    "ክሊኒኩ ነገ ይከፈታል",
    "100% off, 7 days",
)


def found(database: Database, wanted: str, **filters: str) -> list[int]:
    page = list_messages(database, MessageFilters(text=wanted, **filters))  # type: ignore[arg-type]
    return [one["id"] for one in page["items"]]


@pytest.fixture
def texts(database: Database, clock: Clock) -> Database:
    for number, words in enumerate(TEXTS):
        delivery.queue(database, delivery.phone(number), text=words)
    clock.step(minutes=2)
    assert search.index_new(database) == 5
    return database


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("noon", [2, 1]),
        ("NOON closes", [1]),
        ("noon, school!", [1]),
        ("écoles", [3]),
        ("ÉCOLES Demain", [3]),
        ("ነገ", [4]),
        ("7 100", [5]),
        ("noo", []),
        ("noon missing", []),
        ('noon" OR "clinic', []),
        ("noon & !clinic", [2]),
    ],
)
def test_a_text_is_found_by_whole_words_in_any_case_and_order(
    texts: Database, wanted: str, ids: list[int]
) -> None:
    assert found(texts, wanted) == ids


@pytest.mark.parametrize("wanted", ["", " ", "!?", "_", '"', "%"])
def test_a_search_without_a_word_is_refused(database: Database, wanted: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        found(database, wanted)
    assert (caught.value.code, caught.value.field) == ("nothing_to_search", "text")


def test_words_and_other_filters_go_together_page_by_page(texts: Database) -> None:
    assert found(texts, "noon", to=delivery.phone(0)) == [1]
    first = list_messages(texts, MessageFilters(text="noon"), limit=1)
    second = list_messages(texts, MessageFilters(text="noon"), first["next_cursor"], limit=1)
    assert [one["id"] for page in (first, second) for one in page["items"]] == [2, 1]


def test_a_sweep_takes_up_what_is_a_minute_old_and_only_once(
    database: Database, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "CHUNK", 2)
    monkeypatch.setattr(search, "_NEXT", search._NEXT.limit(2))
    delivery.queue(database, *delivery.phones(5), text="first")
    assert search.index_new(database) == 0
    clock.step(minutes=2)
    delivery.queue(database, delivery.phone(9), text="second")
    sweep.sweep(database, settings)
    assert (found(database, "first"), found(database, "second")) == ([5, 4, 3, 2, 1], [])
    clock.step(minutes=2)
    assert search.index_new(database) == 1
    assert search.index_new(database) == 0
    assert found(database, "second") == [6]


def erase(database: Database, *ids: int) -> None:
    with database.write() as connection:
        search.remove(connection, ids)
        connection.execute(update(tables.messages).where(tables.messages.c.id.in_(ids)).values(text=""))


def test_an_erased_text_is_not_found_and_the_others_are(texts: Database) -> None:
    erase(texts, 1)
    assert found(texts, "noon") == [2]
    assert found(texts, "school") == []
    search.purge(texts)
    assert found(texts, "noon") == [2]


def test_a_text_that_is_erased_before_it_is_taken_up_is_never_found(database: Database, clock: Clock) -> None:
    delivery.queue(database, *delivery.phones(2), text="secret")
    erase(database, 1)
    clock.step(minutes=2)
    search.index_new(database)
    assert found(database, "secret") == [2]


def test_nothing_of_an_erased_text_is_left_in_the_index(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not database.is_sqlite:
        pytest.skip("a row of PostgreSQL's index goes with VACUUM")
    monkeypatch.setattr(search, "CHUNK", 10)
    monkeypatch.setattr(search, "_NEXT", search._NEXT.limit(10))
    for number in range(40):
        delivery.queue(
            database, delivery.phone(number), text=f"word{number} seen" if number else "zanzibarian"
        )
    clock.step(minutes=2)
    search.index_new(database)
    assert b"anzibarian" in index_bytes(database)
    erase(database, 1)
    search.purge(database)
    assert b"anzibarian" not in index_bytes(database)
    assert len(found(database, "seen")) == 39


def index_bytes(database: Database) -> bytes:
    with database.read() as connection:
        return b"".join(connection.execute(text("SELECT block FROM message_search_data")).scalars())


def test_what_is_removed_twice_harms_no_other(texts: Database) -> None:
    erase(texts, 1)
    erase(texts, 1)
    assert found(texts, "noon") == [2]
    if texts.is_sqlite:
        with texts.write() as connection:
            connection.execute(text("INSERT INTO message_search (message_search) VALUES ('integrity-check')"))


def test_all_texts_may_be_removed_twice(texts: Database, clock: Clock) -> None:
    """SQLite's index counts its texts: what is taken out of it twice makes it unusable."""
    everything = range(1, len(TEXTS) + 1)
    for _ in range(3):
        erase(texts, *everything)
    delivery.queue(texts, delivery.phone(9), text="Opens at noon again")
    clock.step(minutes=2)
    assert search.index_new(texts) == 1
    search.purge(texts)
    assert found(texts, "noon") == [len(TEXTS) + 1]


def test_a_text_that_is_erased_while_it_is_taken_up_is_not_found(database: Database, clock: Clock) -> None:
    """Whoever takes up words has read them before they are blank, and writes them down after they were removed."""
    (message_id,) = delivery.queue(database, delivery.phone(1), text="secret")
    clock.step(minutes=2)
    took_up: list[int] = []
    with database.write() as connection:
        search.remove(connection, [message_id])
        taking_up = threading.Thread(target=lambda: took_up.append(search.index_new(database)))
        taking_up.start()
        # SQLite has one writer: there the other waits for this one in any case.
        if not database.is_sqlite:
            eventually(lambda: took_up or is_anybody_blocked(database), "it waits, or has taken it up")
        connection.execute(update(tables.messages).values(text="", recipient=""))
    taking_up.join()
    with database.read() as connection:
        mine = text("SELECT count(*) FROM message_search WHERE message_search MATCH 'secret'")
        words = text("SELECT count(*) FROM message_search WHERE words @@ to_tsquery('simple', 'secret')")
        assert connection.execute(mine if database.is_sqlite else words).scalar() == 0
