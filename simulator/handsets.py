"""What a person does with a phone: send a text, stop a sender at the telco, take a subscription."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from .clock import iso_seconds
from .outcomes import network_of, normalise
from .owed import KEPT_SECONDS, OwedRow, owe
from .state import Simulator

UPDATE_TYPES = ("addition", "deletion")


class HandsetError(ValueError):
    """Something no phone could do; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class HandsetText:
    """A text typed on a phone. ``extras``: documented callback fields given by hand (``cost``, ``networkCode``)."""

    number: str
    recipient: str
    text: str
    callback_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    link_id: str | None = None
    extras: Mapping[str, str] = field(default_factory=dict)

    def body(self, sent_at: float) -> str:
        fields = {
            "date": iso_seconds(sent_at),
            "from": self.number,
            "id": self.callback_id,
            "text": self.text,
            "to": self.recipient,
            "networkCode": network_of(self.number),
        }
        if self.link_id:
            fields["linkId"] = self.link_id
        return urlencode(fields | dict(self.extras))


def send_from_handset(simulator: Simulator, sent: HandsetText, times: int = 1) -> str:
    """The text stands in AT's inbox and AT owes the service its callback. Returns the inbound id."""
    now = time.time()
    with simulator.store.write() as connection:
        cursor = connection.execute(
            "INSERT INTO inbound (callback_id, number, recipient, text, link_id, sent_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (sent.callback_id, sent.number, sent.recipient, sent.text, sent.link_id, now),
        )
        owe(connection, [owed_row("inbound", sent.body(now), inbound_id=cursor.lastrowid)] * times)
        connection.execute("UPDATE totals SET inbound = inbound + 1")
    simulator.courier.wake()
    return sent.callback_id


def opt_out(simulator: Simulator, number: str, sender: str) -> None:
    """The telco blocks the sender for this phone; AT tells the service ``senderId`` and ``phoneNumber``, no more."""
    simulator.blacklist.add(sender, number)
    with simulator.store.write() as connection:
        owe(connection, [owed_row("opt_out", urlencode({"senderId": sender, "phoneNumber": number}))])
    simulator.courier.wake()


def opt_in(simulator: Simulator, number: str, sender: str) -> None:
    """AT has no callback for this: the service is not told."""
    simulator.blacklist.remove(sender, number)


def subscribe(simulator: Simulator, number: str, short_code: str, keyword: str, update_type: str) -> None:
    body = {"phoneNumber": number, "shortCode": short_code, "keyword": keyword, "updateType": update_type}
    with simulator.store.write() as connection:
        owe(connection, [owed_row("subscription", urlencode(body))])
    simulator.courier.wake()


def owed_row(kind: str, body: str, *, inbound_id: int | None = None) -> OwedRow:
    now = time.time()
    return kind, body, now, now + KEPT_SECONDS, None, inbound_id, None


def phone_number(value: str | None) -> str:
    """E.164 from what a person typed. Raises HandsetError."""
    typed = "".join(letter for letter in value or "" if letter not in " -().\u00a0")
    number = normalise(typed)
    if number is None:
        raise HandsetError("A phone number looks like +254711000111: a country code and 7 to 15 digits.")
    return number


def required(value: str | None, name: str) -> str:
    if not value or not value.strip():
        raise HandsetError(f"{name} is missing.")
    return value
