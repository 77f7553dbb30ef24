from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from messaging.storage.database import Database
from tests.support.poison import Poison


@pytest.fixture
def poison(database: Database) -> Iterator[Poison]:
    poison = Poison(database)
    yield poison
    with database.engine.connect() as connection:
        has_trigger = (
            connection.dialect.name == "sqlite"
            or connection.execute(text("SELECT count(*) FROM pg_proc WHERE proname = 'poison'")).scalar()
        )
    if has_trigger and not database.is_sqlite:
        poison.cure()
