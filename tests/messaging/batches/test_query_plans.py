"""What is asked again and again about a batch is found by its indexes, whatever else the tables hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import bindparam, event, text, update

from messaging.batches import control, exports, pace, progress, waiting
from messaging.batches.upkeep import BatchUpkeep
from messaging.messages import held, status_events
from messaging.messages.views import MessageFilters, list_messages
from messaging.operations import sweep
from messaging.operations.held import count_held, list_held
from messaging.operations.stats import stats
from messaging.sending import due, order
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from tests.support import delivery

ROWS = 4000
SENT, PAUSED, SENDING = 1, 2, 3
_FILL = text(
    """
    INSERT INTO messages (batch_id, recipient, text, origin, priority, status, on_unknown, due_at, created_at,
                          parts, cost_micros, cost_currency)
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows)
    SELECT CAST(:batch_id AS bigint), '+2547' || (10000000 + n), 'Hello', 'batch', 5, CAST(:status AS text),
           'hold', created_at, created_at, 1, 800000, 'KES'
    FROM numbers, batches WHERE batches.id = :batch_id
    """
)


@pytest.fixture
def large(database: Database) -> Database:
    """Three batches one behind the other: all sent, paused before its first text, and one that is being sent."""
    for batch_id, status in ((SENT, "sending"), (PAUSED, "paused"), (SENDING, "sending")):
        assert delivery.new_batch(database, ROWS, status=status) == batch_id
        sent = "delivered" if batch_id == SENT else "queued"
        with database.write() as connection:
            connection.execute(_FILL, {"rows": ROWS, "batch_id": batch_id, "status": sent})
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE messages"))
    return database


@contextmanager
def plans(database: Database) -> Iterator[list[str]]:
    """Of each statement about messages, as it is executed: the lines of its plan that name the table."""
    found: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, given: Any, _context: Any, many: bool) -> None:
        if (
            many
            or "messages" not in statement
            or not statement.lstrip().startswith(("SELECT", "UPDATE", "WITH"))
        ):
            return
        how = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        cursor = connection.connection.driver_connection.cursor()
        for row in cursor.execute(f"{how} {statement}", given).fetchall():
            line = str(row[-1]).strip()
            if "messages" in line:
                found.append(line)

    event.listen(database.engine, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(database.engine, "before_cursor_execute", explain)


def reads_the_table(line: str) -> bool:
    return "Seq Scan" in line or line == "SCAN messages"


def cancel_some(database: Database) -> None:
    control.cancel_chunk(database, PAUSED)


def count_all_held(database: Database) -> None:
    with database.read() as connection:
        count_held(connection)


def hold_due(database: Database) -> None:
    delivery.in_write(database, lambda connection, now: held.hold_due(connection, "restored", now, ROWS * 2))


def look_at_pace(database: Database) -> None:
    with database.write() as connection:
        at = wall_clock(connection)
        ids = range(2 * ROWS + 1, 2 * ROWS + 301)
        status_events.record(
            connection, [status_events.Event(one, at, "accepted", "provider") for one in ids]
        )
    pace.paces(database, [progress.get_batch(database, SENDING)])


LOOKS: dict[str, Callable[[Database], object]] = {
    "claim": lambda database: delivery.claim(database, recipients=50, posts=1),
    "has_due": due.has_due,
    "progress": lambda database: progress.get_batch(database, SENDING),
    "bar": lambda database: next(progress.watch(database, SENDING)),
    "cancel": cancel_some,
    "upkeep": lambda database: BatchUpkeep(database).look(),
    "leases": sweep.sweep_expired_leases,
    "batches": progress.list_batches,
    "pace": look_at_pace,
    "reference": lambda database: list_messages(database, MessageFilters(reference="visit-7")),
    "figures": lambda database: stats(database, "UTC"),
    "held": list_held,
    "count_held": count_all_held,
    "expiring_held": lambda database: sweep._settle_in_chunks(database, sweep._held_too_late),
    "hold_due": hold_due,
    "expiring": lambda database: sweep._settle_in_chunks(database, sweep._too_late),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_no_look_at_a_batch_reads_the_whole_table(
    large: Database, look: Callable[[Database], object]
) -> None:
    with plans(large) as found:
        look(large)
    assert [line for line in found if reads_the_table(line)] == []


def test_a_claim_reads_no_more_of_a_batch_than_it_takes(large: Database) -> None:
    """In the order of the index: a bitmap would be of all that is due, and sorted for each claim."""
    back_off(large)
    with plans(large) as found, large.read() as connection:
        asked = {**order.moments(connection, wall_clock(connection)), "batch_id": SENDING, "most": 500}
        assert len(connection.execute(due._BATCH.claimable, asked).all()) == 500
    (line,) = (one for one in found if "ix_messages_bulk" in one)
    assert line.startswith(("SEARCH messages", "->  Index Scan"))
    # For each row, whether an earlier text to the same person waits.
    (line,) = (one for one in found if "ix_messages_queued" in one)
    assert line.startswith(("SEARCH earlier", "->  Index Scan"))


def test_what_waits_of_a_batch_is_read_from_its_own_index(large: Database) -> None:
    with plans(large) as found, large.read() as connection:
        asked = {"batch_id": SENDING, "now": wall_clock(connection)}
        connection.execute(waiting._WAITING, asked).all()
    assert len(found) == 1
    assert "ix_messages_waits" in found[0]


def test_what_a_pause_holds_of_a_batch_is_counted_from_its_index(large: Database) -> None:
    with plans(large) as found, large.read() as connection:
        connection.execute(waiting._QUEUED, {"batch_id": SENDING}).scalar_one()
    assert any("ix_messages_batch" in line for line in found), found


def test_a_reference_is_looked_up_by_its_index(large: Database) -> None:
    with plans(large) as found:
        list_messages(large, MessageFilters(reference="visit-7"))
    assert any("ix_messages_reference" in line for line in found), found


def back_off(database: Database) -> None:
    """All texts were tried and wait, each for a time of its own; those of the first half have waited long enough."""
    with database.write() as connection:
        now = wall_clock(connection)
        shuffled = [(number * 1787) % (ROWS * 3) for number in range(ROWS * 3)]
        connection.execute(
            update(tables.messages)
            .where(tables.messages.c.id == bindparam("row_id"))
            .values(due_at=bindparam("at")),
            [
                {"row_id": number + 1, "at": now + timedelta(seconds=place - ROWS * 1.5)}
                for number, place in enumerate(shuffled)
            ],
        )
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE messages"))


def test_a_download_reads_each_row_once(large: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "WINDOW", 100)
    lines = exports.messages_csv(large, SENDING)
    with plans(large) as found:
        rows = sum(piece.count("\r\n") for piece in lines) - 1
    assert rows == ROWS
    assert len(found) >= ROWS / 100
    wanted = "INTEGER PRIMARY KEY (rowid>? AND rowid<?)" if large.is_sqlite else "pk_messages"
    assert all(wanted in line or line.startswith("->  Bitmap Heap Scan") for line in found), found[:3]


def test_a_page_of_a_batch_sorts_no_whole_rows(large: Database) -> None:
    if not large.is_sqlite:
        pytest.skip("PostgreSQL walks over the key")
    with plans(large) as found:
        page = list_messages(large, MessageFilters(batch_id=SENT))
    assert len(page["items"]) == 50
    assert found == [
        "SEARCH messages USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH messages USING COVERING INDEX ix_messages_batch (batch_id=?)",
    ]
