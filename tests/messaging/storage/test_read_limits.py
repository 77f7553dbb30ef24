from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from messaging.storage.database import Database
from messaging.storage.read_limits import limited_reads
from utils.errors import TooSlow

ENDLESS = {
    True: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    False: "SELECT pg_sleep(600)",
}


def read_without_end(database: Database) -> None:
    with database.read() as connection:
        connection.execute(text(ENDLESS[database.is_sqlite]))


def test_a_read_ends_at_its_deadline(database: Database) -> None:
    with pytest.raises(TooSlow), limited_reads(0.3):
        read_without_end(database)


def test_a_read_ends_when_nobody_waits_for_it_any_more(database: Database) -> None:
    leaves_at = time.monotonic() + 0.3
    with pytest.raises(TooSlow), limited_reads(600, lambda: time.monotonic() < leaves_at):
        read_without_end(database)


def test_the_database_is_as_good_as_before_afterwards(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(TooSlow), limited_reads(0.1):
            read_without_end(database)
        with limited_reads(600), database.read() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1


def test_an_error_of_the_read_itself_keeps_its_name(database: Database) -> None:
    with pytest.raises(Exception, match="no_such_table"), limited_reads(600), database.read() as connection:
        connection.execute(text("SELECT * FROM no_such_table"))
