"""What the look for a database that went backwards makes of what happens in the midst of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from messaging.operations import health
from messaging.storage import rollback
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support.databases import empty_database, opened
from tests.support.postgresql_proxy import PostgresqlProxy


@pytest.mark.services
def test_a_server_that_goes_away_is_no_server_without_the_function(tmp_path: Path) -> None:
    """It was taken for one: the next statement then failed with an error that no outage explains."""
    with (
        empty_database("postgresql", tmp_path) as url,
        PostgresqlProxy(url) as proxy,
        opened(proxy.url) as database,
        pytest.raises(DBAPIError) as lost,
    ):
        ask_until_it_fails(database, proxy)
    assert lost.value.connection_invalidated


def ask_until_it_fails(database: Database, proxy: PostgresqlProxy) -> None:
    with database.engine.begin() as connection:
        assert rollback._works(connection, "SELECT 1")
        assert not rollback._works(connection, "SELECT no_such_function()")
        proxy.is_away = True
        while rollback._works(connection, "SELECT 1"):
            pass


@pytest.mark.services
def test_a_heartbeat_in_the_midst_of_the_look_is_no_counter_that_fell(database: Database) -> None:
    """What the look answered was compared with what the heartbeat had left in this process's memory meanwhile.

    The claim of whoever had asked then stood still until its lease ended, and a call was answered 503.
    """
    if database.is_sqlite:
        pytest.skip("there nobody commits between a write transaction's question and its end")
    remember_a_beat(database)
    remember_a_beat_after_the_next_look(database)

    with database.write() as connection:
        identity = rollback.require(connection, wall_clock(connection))

    assert identity.database_id
    with database.read() as connection:
        assert not rollback.is_recovering(connection)


def remember_a_beat(database: Database) -> None:
    beat = health.beat(database, "a worker")
    assert beat is not None
    database.rollback.seen(beat)


def remember_a_beat_after_the_next_look(database: Database) -> None:
    """In a thread of the same process it may come at any point; here it comes at the worst one."""

    beats = iter([lambda: remember_a_beat(database)])

    def come_between(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if "FROM database_identity" in statement and "counter" in statement:
            next(beats, lambda: None)()

    event.listen(database.engine, "after_cursor_execute", come_between)
