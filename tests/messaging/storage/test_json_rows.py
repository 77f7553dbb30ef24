from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import BigInteger, LargeBinary, String, select

from messaging.storage.column_types import UtcDateTime
from messaging.storage.database import Database
from messaging.storage.json_rows import JsonRows

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
