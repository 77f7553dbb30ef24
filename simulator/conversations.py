"""What the page shows: the phones, each with its conversation."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from .bubbles import Bubble, inbound_bubbles, text_bubbles
from .outcomes import network_of
from .state import Simulator
from .store import Store

PHONES_SHOWN = 24
BUBBLES_SHOWN = 40
# Without a search the page looks only at the newest texts: there is no index by number, since keeping one for a million
# random numbers would cost the send endpoint half its speed.
LOOKED_THROUGH = 5000

NETWORK_NAMES = {
    "63902": "Safaricom, Kenya",
    "62130": "MTN, Nigeria",
    "64004": "Vodacom, Tanzania",
    "64110": "MTN, Uganda",
    "63510": "MTN, Rwanda",
    "65010": "Airtel, Malawi",
    "62001": "MTN, Ghana",
    "63601": "Ethio Telecom",
    "64501": "Airtel, Zambia",
}

NEWEST_NUMBERS = """
SELECT number, max(at) AS at FROM (
    SELECT number, arrived_at AS at FROM texts JOIN posts ON posts.id = post_id WHERE texts.id > :oldest
    UNION ALL SELECT number, at FROM (SELECT number, sent_at AS at FROM inbound ORDER BY id DESC LIMIT :depth)
) GROUP BY number ORDER BY at DESC LIMIT :limit
"""

FOUND_NUMBERS = """
SELECT number FROM texts WHERE number LIKE :pattern
UNION SELECT number FROM inbound WHERE number LIKE :pattern
LIMIT :limit
"""

TEXTS_OF = """
SELECT texts.*, posts.text, posts.sender, posts.arrived_at, known.text_id IS NOT NULL AS is_known
FROM texts JOIN posts ON posts.id = texts.post_id LEFT JOIN known ON known.text_id = texts.id
WHERE texts.id > ? AND texts.number IN ({marks}) ORDER BY texts.id DESC
"""


@dataclass(frozen=True, slots=True)
class Phone:
    """``stoppable`` and ``stopped``: alphanumeric senders, which cannot be answered, only stopped at the telco."""

    number: str
    network: str
    bubbles: list[Bubble]
    reply_to: str
    takes_no_replies: str | None
    stoppable: list[str]
    stopped: list[str]

    @property
    def key(self) -> str:
        return self.number.lstrip("+")


def shown_phones(simulator: Simulator, find: str) -> list[Phone]:
    """The phones with the newest conversations, newest first; or those whose number contains ``find``'s digits."""
    digits = "".join(letter for letter in find if letter.isdigit())
    oldest = 0 if digits else newest_text_id(simulator.store) - LOOKED_THROUGH
    numbers = found_numbers(simulator.store, digits) if digits else newest_numbers(simulator.store, oldest)
    texts = texts_by_number(simulator.store, numbers, oldest)
    return [phone_for(simulator, number, texts[number]) for number in numbers]


def newest_text_id(store: Store) -> int:
    newest: int = store.row("SELECT coalesce(max(id), 0) AS id FROM texts")["id"]
    return newest


def newest_numbers(store: Store, oldest: int) -> list[str]:
    bounds = {"oldest": oldest, "depth": LOOKED_THROUGH, "limit": PHONES_SHOWN}
    return [row["number"] for row in store.rows(NEWEST_NUMBERS, bounds)]


def found_numbers(store: Store, digits: str) -> list[str]:
    rows = store.rows(FOUND_NUMBERS, {"pattern": f"%{digits}%", "limit": PHONES_SHOWN})
    return [row["number"] for row in rows]


def texts_by_number(store: Store, numbers: list[str], oldest: int) -> dict[str, list[sqlite3.Row]]:
    """The newest texts of each, newest first."""
    found: dict[str, list[sqlite3.Row]] = {number: [] for number in numbers}
    sql = TEXTS_OF.format(marks=",".join("?" * len(numbers)))
    for row in store.stream(sql, (oldest, *numbers)):
        if len(found[row["number"]]) < BUBBLES_SHOWN:
            found[row["number"]].append(row)
    return found


def phone_for(simulator: Simulator, number: str, texts: list[sqlite3.Row]) -> Phone:
    inbound = simulator.store.rows(
        "SELECT * FROM inbound WHERE number = ? ORDER BY id DESC LIMIT ?", (number, BUBBLES_SHOWN)
    )
    bubbles = text_bubbles(simulator.store, texts) + inbound_bubbles(simulator.store, inbound)
    bubbles.sort(key=lambda bubble: bubble.at)
    senders = [row["sender"] for row in texts if row["is_received"]]
    reply_to = next((sender for sender in senders if sender.isdigit()), simulator.config.shortcode)
    stopped = stopped_senders(simulator.store, number)
    return Phone(
        number,
        NETWORK_NAMES.get(network_of(number), "Test network"),
        bubbles[-BUBBLES_SHOWN:],
        reply_to,
        senders[0] if senders and not senders[0].isdigit() else None,
        stoppable_senders(senders, stopped),
        stopped,
    )


def stoppable_senders(senders: Iterable[str], stopped: Iterable[str]) -> list[str]:
    folded = {name.casefold() for name in stopped}
    names = dict.fromkeys(sender for sender in senders if not sender.isdigit())
    return [name for name in names if name.casefold() not in folded]


def stopped_senders(store: Store, number: str) -> list[str]:
    rows = store.rows("SELECT shown_sender FROM blacklist WHERE number = ? ORDER BY sender", (number,))
    return [row["shown_sender"] for row in rows]
