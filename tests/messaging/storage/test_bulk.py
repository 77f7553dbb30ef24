from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import BigInteger, LargeBinary, String, select

from messaging.storage import tables
from messaging.storage.bulk import JsonRows, insert_for, insert_or_ignore
from messaging.storage.clocks import wall_clock
from messaging.storage.column_types import UtcDateTime
from messaging.storage.database import Database
from tests.support.delivery import count, every

pytestmark = pytest.mark.services

MOMENT = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
ROWS = JsonRows(
    "given",
    {"id": BigInteger(), "name": String(3), "body": LargeBinary(), "at": UtcDateTime()},
)


@pytest.fixture
def postgresql(postgresql_url: str) -> Any:
    database = Database(postgresql_url.replace("postgresql://", "postgresql+psycopg://", 1))
    yield database
    database.close()


def read(database: Database, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        statement = select(*ROWS.columns).order_by(ROWS.place)
        return [tuple(row) for row in connection.execute(statement, ROWS.given(rows))]


@pytest.mark.parametrize(
    "values",
    [
        (2**62, "abc", b"\x00\xff'\"\\", MOMENT),
        (None, None, None, None),
        (0, "", b"", MOMENT),
        (1, "ሰላም \N{GRINNING FACE} \"'\\\n{}[],:%s", bytes(range(256)), MOMENT),
    ],
)
def test_a_value_comes_back_as_it_was_given(postgresql: Database, values: tuple[Any, ...]) -> None:
    assert read(postgresql, [dict(zip(ROWS.names, values, strict=True))]) == [values]


def test_rows_come_in_the_order_they_were_given_in(postgresql: Database) -> None:
    ids = [5, 3, 9, 1] * 50
    given = [{"id": one, "name": None, "body": None, "at": None, "more": "is left out"} for one in ids]
    assert [row[0] for row in read(postgresql, given)] == ids


def test_no_rows_are_no_rows(postgresql: Database) -> None:
    assert read(postgresql, []) == []


def test_what_is_too_long_for_its_column_is_not_cut(postgresql: Database) -> None:
    row = {"id": 1, "name": "longer than three", "body": None, "at": None}
    assert read(postgresql, [row])[0][1] == "longer than three"


def test_a_value_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="set has no place"):
        ROWS.given([{"id": set(), "name": None, "body": None, "at": None}])


def test_the_first_row_goes_in_and_an_equal_key_is_left_as_it_is(database: Database) -> None:
    with database.write() as connection:
        assert insert_or_ignore(connection, tables.counters, {"name": "a", "value": 1}) is True
        assert insert_or_ignore(connection, tables.counters, {"name": "a", "value": 2}) is False
    assert every(database, tables.counters)[0].value == 1


def test_a_key_of_two_columns_is_equal_only_as_a_whole(database: Database) -> None:
    with database.write() as connection:
        now = wall_clock(connection)
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
