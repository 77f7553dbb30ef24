from __future__ import annotations

import pytest
from sqlalchemy import select, update

from messaging.messages import status_events, unknown_outcomes
from messaging.messages.queue import NewMessage, enqueue
from messaging.operations.audit import audit
from messaging.storage import tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.errors import NotFound


def unknown_message(database: Database) -> int:
    with database.write() as connection:
        (message_id,) = enqueue(connection, [NewMessage("+254711000001", "Hello", "ACME")])
        connection.execute(update(tables.messages).values(status="unknown", reason="worker_died"))
        now = wall_clock(connection)
        status_events.record(connection, [status_events.Event(message_id, now, "unknown", "sweep")])
    return message_id


def rows(database: Database) -> list[tuple[int, str, str | None, int | None]]:
    with database.read() as connection:
        statement = select(
            tables.messages.c.id,
            tables.messages.c.status,
            tables.messages.c.reason,
            tables.messages.c.resend_of,
        )
        return [tuple(row) for row in connection.execute(statement.order_by(tables.messages.c.id))]


def test_a_resend_is_a_new_message_that_names_the_old_one(database: Database) -> None:
    old_id = unknown_message(database)
    new_id = unknown_outcomes.resend(database, old_id)
    assert rows(database) == [(old_id, "unknown", "resent", None), (new_id, "queued", None, old_id)]
    assert audit(database).problems == []


def test_a_message_that_was_erased_is_not_resent(database: Database) -> None:
    old_id = unknown_message(database)
    with database.write() as connection:
        connection.execute(update(tables.messages).values(recipient="", text=""))
    with pytest.raises(unknown_outcomes.NotUnknown, match="erased"):
        unknown_outcomes.resend(database, old_id)
    unknown_outcomes.close(database, old_id)
    assert rows(database) == [(old_id, "unknown", "closed", None)]


def test_a_message_is_resent_once(database: Database) -> None:
    old_id = unknown_message(database)
    unknown_outcomes.resend(database, old_id)
    with pytest.raises(unknown_outcomes.NotUnknown, match="resent already"):
        unknown_outcomes.resend(database, old_id)
    assert len(rows(database)) == 2


def test_a_closed_message_stays_unknown_and_is_not_resent(database: Database) -> None:
    old_id = unknown_message(database)
    unknown_outcomes.close(database, old_id)
    assert rows(database) == [(old_id, "unknown", "closed", None)]
    with pytest.raises(unknown_outcomes.NotUnknown, match="closed already"):
        unknown_outcomes.resend(database, old_id)
    assert audit(database).problems == []


def test_only_an_unknown_message_can_be_resent(database: Database) -> None:
    with database.write() as connection:
        (message_id,) = enqueue(connection, [NewMessage("+254711000001", "Hello")])
    with pytest.raises(unknown_outcomes.NotUnknown, match="is queued"):
        unknown_outcomes.resend(database, message_id)


@pytest.mark.parametrize("message_id", [404, 2**80])
def test_a_message_that_does_not_exist_is_not_found(database: Database, message_id: int) -> None:
    with pytest.raises(NotFound):
        unknown_outcomes.close(database, message_id)
