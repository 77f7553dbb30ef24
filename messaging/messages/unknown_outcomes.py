"""What a person decides about a message whose answer was lost: send it again as a new one, or let it rest."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from messaging import statuses
from messaging.access import actions
from messaging.messages import status_events
from messaging.messages.queue import SINGLE_PRIORITY, NewMessage, enqueue
from messaging.messages.status_counts import Tally
from messaging.storage import rollback, tables
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.errors import Conflict, NotFound
from utils.json_shapes import LARGEST_ID

RESENT = "resent"
CLOSED = "closed"
# A person has decided: an answer that comes late may settle the message, but never send it.
DECIDED = (RESENT, CLOSED)
SOURCE = "operator"


class NotUnknown(Conflict):
    code = "not_unknown"
    sentence = "Only a message whose outcome is unknown can be resent or closed"


def resend(database: Database, message_id: int) -> int:
    """The id of the new message, which names the old one. The old one stays `unknown`: both may have arrived.

    Raises NotFound, NotUnknown, Recovering.
    """
    with database.write(settled=True) as connection:
        rollback.require(connection, wall_clock(connection))
        old = _unknown_message(connection, message_id)
        if not old.recipient:
            raise NotUnknown(f"Message {message_id} was erased: nobody is left to send it to")
        new = NewMessage(
            old.recipient,
            old.text,
            old.sender_id,
            origin="resend",
            priority=SINGLE_PRIORITY,
            link_id=old.link_id,
            resend_of=old.id,
            estimated_parts=old.estimated_parts,
            reference=old.reference,
        )
        new_id = enqueue(connection, [new])[0]
        _close(connection, old.id, RESENT, f"sent again as message {new_id}", wall_clock(connection))
        actions.note(connection, "message.resend", f"message:{old.id}", after={"new_id": new_id})
        return new_id


def close(database: Database, message_id: int) -> None:
    """Nobody needs to look at it any more; a report may still settle it. Raises NotFound, NotUnknown."""
    with database.write(settled=True) as connection:
        old = _unknown_message(connection, message_id)
        _close(connection, old.id, CLOSED, "closed by a person", wall_clock(connection))
        actions.note(connection, "message.close", f"message:{old.id}")


def _unknown_message(connection: Connection, message_id: int) -> Row[Any]:
    statement = (
        select(tables.messages).where(tables.messages.c.id == min(message_id, LARGEST_ID)).with_for_update()
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise NotFound(f"There is no message {message_id}")
    if row.status != statuses.UNKNOWN:
        raise NotUnknown(f"Message {message_id} is {row.status}: only an unknown one can be resent or closed")
    if row.reason in DECIDED:
        raise NotUnknown(f"Message {message_id} was {row.reason} already")
    return row


def _close(connection: Connection, message_id: int, reason: str, detail: str, now: datetime) -> None:
    connection.execute(
        update(tables.messages).where(tables.messages.c.id == message_id).values(reason=reason)
    )
    happened = status_events.Event(message_id, now, statuses.UNKNOWN, SOURCE, None, detail)
    # Counted when it became unknown.
    status_events.record(connection, [happened], Tally())
