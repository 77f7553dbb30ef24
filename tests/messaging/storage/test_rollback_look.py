"""What the look for a database that went backwards makes of a server that goes away in the midst of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from messaging.storage import rollback
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
