from __future__ import annotations

from messaging.storage import tables
from messaging.storage.database import Database
from messaging.storage.upsert import insert_for, insert_or_ignore
from tests.support.delivery import count, every


def test_the_first_row_goes_in_and_an_equal_key_is_left_as_it_is(database: Database) -> None:
    with database.write() as connection:
        assert insert_or_ignore(connection, tables.counters, {"name": "a", "value": 1}) is True
        assert insert_or_ignore(connection, tables.counters, {"name": "a", "value": 2}) is False
    assert every(database, tables.counters)[0].value == 1


def test_a_key_of_two_columns_is_equal_only_as_a_whole(database: Database) -> None:
    with database.write() as connection:
        now = database.now(connection)
        row = {"key": "k", "route": "a", "fingerprint": b"x", "created_at": now}
        assert insert_or_ignore(connection, tables.idempotency_keys, row)
        assert insert_or_ignore(connection, tables.idempotency_keys, row | {"route": "b"})
        assert not insert_or_ignore(connection, tables.idempotency_keys, row)
    assert count(database, tables.idempotency_keys) == 2


def test_the_insert_of_the_store_knows_what_to_do_on_conflict(database: Database) -> None:
    with database.write() as connection:
        for value in (1, 2):
            statement = insert_for(connection, tables.counters).values(name="a", value=value)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["name"], set_={"value": value})
            )
    assert every(database, tables.counters)[0].value == 2
