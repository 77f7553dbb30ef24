from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from messaging.messages import idempotency
from messaging.messages.idempotency import Earlier, KeyReused, StillRunning, fingerprint
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.delivery import Clock, count, in_write
from tests.support.delivery_processes import begin_key, in_processes
from utils.errors import Conflict, InvalidInput
from utils.settings import Settings

pytest_plugins = ["tests.support.delivery_fixtures"]

MARK = fingerprint(["Hello", "+254711000001"])
OTHER_MARK = fingerprint(["Bye", "+254711000001"])


class Crashed(Exception):
    pass


def begin(database: Database, key: str = "key", mark: bytes = MARK, route: str = "test") -> Earlier | None:
    def work(connection: Connection, now: datetime) -> Earlier | None:
        earlier = idempotency.begin(connection, route, key, mark, now)
        if earlier is None:
            idempotency.finish(connection, route, key, {"n": 1}, 7)
        return earlier

    found: Earlier | None = in_write(database, work)
    return found


def test_the_first_request_has_the_key_and_the_second_gets_its_answer(database: Database) -> None:
    assert begin(database) is None
    assert begin(database) == Earlier({"n": 1}, 7)
    assert begin(database) == Earlier({"n": 1}, 7)


def test_a_changed_request_with_the_same_key_is_refused(database: Database) -> None:
    begin(database)
    with pytest.raises(KeyReused):
        begin(database, mark=OTHER_MARK)


def test_a_refused_change_leaves_the_key_to_the_first_request(database: Database) -> None:
    begin(database)
    with suppress(KeyReused):
        begin(database, mark=OTHER_MARK)
    assert begin(database) == Earlier({"n": 1}, 7)


def test_a_key_belongs_to_its_route(database: Database) -> None:
    assert begin(database) is None
    assert begin(database, route="other") is None
    assert begin(database, key="Key") is None


def test_a_crash_frees_the_key(database: Database) -> None:
    with suppress(Crashed), database.write() as connection:
        idempotency.begin(connection, "test", "key", MARK, wall_clock(connection))
        raise Crashed
    assert begin(database, mark=OTHER_MARK) is None


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0b"])
def test_a_key_that_cannot_be_kept_is_refused(database: Database, key: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        begin(database, key=key)
    assert not isinstance(refusal.value, KeyReused)
    assert count(database, tables.idempotency_keys) == 0


@pytest.mark.parametrize("key", ["x" * 255, "ключ 🔑", "a b", "' OR 1=1"])
def test_any_other_key_will_do(database: Database, key: str) -> None:
    assert begin(database, key=key) is None
    assert begin(database, key=key) == Earlier({"n": 1}, 7)


def test_a_key_is_kept_for_a_day(database: Database, clock: Clock) -> None:
    begin(database)
    clock.step(hours=23)
    assert in_write(database, idempotency.forget_old) == 0
    clock.step(hours=2)
    assert in_write(database, idempotency.forget_old) == 1
    assert begin(database, mark=OTHER_MARK) is None


def test_the_order_of_fields_and_spaces_do_not_count_but_the_order_of_recipients_does() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"b": [1, 2]}) != fingerprint({"b": [2, 1]})
    assert fingerprint(["é"]) != fingerprint(["e"])
    assert len(fingerprint([])) == 32


def test_the_two_refusals_are_of_different_kinds() -> None:
    assert issubclass(KeyReused, InvalidInput)
    assert issubclass(StillRunning, Conflict)
    assert KeyReused.code != StillRunning.code


def test_a_second_request_waits_for_the_end_of_the_first_and_gets_its_answer(database: Database) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    found: list[Earlier | None] = []

    def first() -> None:
        with database.write() as connection:
            idempotency.begin(connection, "test", "key", MARK, wall_clock(connection))
            has_begun.set()
            may_end.wait(10)
            idempotency.finish(connection, "test", "key", {"n": 1}, 7)

    threads = [
        threading.Thread(target=first),
        threading.Thread(target=lambda: found.append(begin(database))),
    ]
    threads[0].start()
    assert has_begun.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert found == []
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert found == [Earlier({"n": 1}, 7)]


def test_of_many_threads_one_is_the_first(database: Database) -> None:
    found: list[Earlier | None] = []
    threads = [threading.Thread(target=lambda: found.append(begin(database))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert found.count(None) == 1


def test_of_many_processes_one_is_the_first(database: Database, at_settings: Settings) -> None:
    firsts = in_processes(begin_key, [(at_settings, "key", MARK)] * 3)
    assert sorted(firsts) == [False, False, True]


REQUESTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def shape(request: Any) -> Any:
    """Equal for the same JSON alone: to Python 1 is True, and the order of fields is none."""
    if isinstance(request, dict):
        return frozenset((name, shape(value)) for name, value in request.items())
    if isinstance(request, list):
        return tuple(map(shape, request))
    return type(request), request


def turned_round(request: Any) -> Any:
    """With the fields of each object in the other order."""
    if isinstance(request, dict):
        return {name: turned_round(value) for name, value in reversed(request.items())}
    return list(map(turned_round, request)) if isinstance(request, list) else request


@given(first=REQUESTS, second=REQUESTS)
def test_two_requests_have_one_fingerprint_where_they_say_the_same_and_nowhere_else(
    first: Any, second: Any
) -> None:
    assert fingerprint(turned_round(first)) == fingerprint(first)
    assert (fingerprint(first) == fingerprint(second)) is (shape(first) == shape(second))


@given(asked=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([MARK, OTHER_MARK])), max_size=8))
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_in_whatever_order_calls_come_a_key_is_new_once_and_stays_with_its_request(
    database: Database, asked: list[tuple[str, bytes]]
) -> None:
    route, known = secrets.token_hex(4), dict[str, bytes]()
    for key, mark in asked:
        if known.get(key, mark) != mark:
            with pytest.raises(KeyReused):
                begin(database, key, mark, route)
        else:
            wanted = Earlier({"n": 1}, 7) if key in known else None
            assert begin(database, key, mark, route) == wanted
            known[key] = mark
