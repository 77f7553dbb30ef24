from __future__ import annotations

import pytest
from sqlalchemy import select, update

from messaging import events, unknowns
from messaging.audit import audit
from messaging.database import Database
from messaging.models import messages
from messaging.outbox import NewMessage, enqueue
from utils.errors import NotFound


def unknown_message(database: Database) -> int:
    with database.write() as connection:
        (message_id,) = enqueue(database, connection, [NewMessage("+254711000001", "Hello", "ACME")])
        connection.execute(update(messages).values(status="unknown", reason="worker_died"))
        now = database.now(connection)
        events.record(connection, [events.Event(message_id, now, "unknown", "sweep")])
    return message_id


def rows(database: Database) -> list[tuple[int, str, str | None, int | None]]:
    with database.read() as connection:
        statement = select(messages.c.id, messages.c.status, messages.c.reason, messages.c.resend_of)
        return [tuple(row) for row in connection.execute(statement.order_by(messages.c.id))]


def test_a_resend_is_a_new_message_that_names_the_old_one(database: Database) -> None:
    old_id = unknown_message(database)
    new_id = unknowns.resend(database, old_id)
    assert rows(database) == [(old_id, "unknown", "resent", None), (new_id, "queued", None, old_id)]
    assert audit(database).problems == []


def test_a_message_is_resent_once(database: Database) -> None:
    old_id = unknown_message(database)
    unknowns.resend(database, old_id)
    with pytest.raises(unknowns.NotUnknown, match="resent already"):
        unknowns.resend(database, old_id)
    assert len(rows(database)) == 2


def test_a_closed_message_stays_unknown_and_is_not_resent(database: Database) -> None:
    old_id = unknown_message(database)
    unknowns.close(database, old_id)
    assert rows(database) == [(old_id, "unknown", "closed", None)]
    with pytest.raises(unknowns.NotUnknown, match="closed already"):
        unknowns.resend(database, old_id)
    assert audit(database).problems == []


def test_only_an_unknown_message_can_be_resent(database: Database) -> None:
    with database.write() as connection:
        (message_id,) = enqueue(database, connection, [NewMessage("+254711000001", "Hello")])
    with pytest.raises(unknowns.NotUnknown, match="is queued"):
        unknowns.resend(database, message_id)


@pytest.mark.parametrize("message_id", [404, 2**80])
def test_a_message_that_does_not_exist_is_not_found(database: Database, message_id: int) -> None:
    with pytest.raises(NotFound):
        unknowns.close(database, message_id)
