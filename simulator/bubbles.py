"""Speech bubbles: one text on a phone, and in a short sentence what became of it."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from .clock import clock_time, iso_milliseconds
from .outcomes import REFUSAL_WORDS
from .store import Store


@dataclass(frozen=True, slots=True)
class Bubble:
    """``tone`` is good, bad, waiting or quiet; a ``is_ghost`` text never reached the phone."""

    key: str
    is_own: bool
    is_ghost: bool
    other_party: str
    text: str
    at: float
    state: str
    tone: str

    @property
    def iso(self) -> str:
        return iso_milliseconds(self.at)

    @property
    def clock(self) -> str:
        return clock_time(self.at)[:5]


def text_bubbles(store: Store, rows: list[sqlite3.Row]) -> list[Bubble]:
    troubles = callback_troubles(store, "text_id", (row["id"] for row in rows))
    return [text_bubble(row, troubles.get(row["id"])) for row in rows]


def text_bubble(row: sqlite3.Row, trouble: str | None) -> Bubble:
    state, tone = text_state(row, trouble)
    is_ghost = not row["is_received"]
    key = f"text-{row['id']}"
    return Bubble(key, False, is_ghost, row["sender"], row["text"], row["arrived_at"], state, tone)


def text_state(row: sqlite3.Row, trouble: str | None) -> tuple[str, str]:
    """One short sentence for the person at the page, and its tone."""
    if row["refusal"]:
        return f"Refused: {row['refusal']} {REFUSAL_WORDS[row['refusal']]}", "bad"
    arrival = "Delivered" if row["is_received"] else "Not received"
    if row["report"] is None:
        return f"{arrival}, no report will come", "quiet"
    if row["reported"] and not row["is_known"]:
        return f"{arrival}, the service has the report", "waiting"
    if row["reported"]:
        known = "the service knows" if row["reported"] == "Success" else f"reported “{row['reported']}”"
        return f"{arrival}, {known}", "good" if row["is_received"] else "bad"
    return f"{arrival}, {trouble or 'report on its way'}", "bad" if trouble else "waiting"


def inbound_bubbles(store: Store, rows: list[sqlite3.Row]) -> list[Bubble]:
    troubles = callback_troubles(store, "inbound_id", (row["id"] for row in rows))
    return [inbound_bubble(row, troubles.get(row["id"])) for row in rows]


def inbound_bubble(row: sqlite3.Row, trouble: str | None) -> Bubble:
    if row["acknowledged_at"]:
        state, tone = "Sent, the service has it", "good"
    else:
        state, tone = (f"Sent, {trouble}", "bad") if trouble else ("On its way to the service", "waiting")
    key = f"inbound-{row['id']}"
    return Bubble(key, True, False, row["recipient"], row["text"], row["sent_at"], state, tone)


def callback_troubles(store: Store, column: str, ids: Iterable[int]) -> dict[int, str]:
    """For each text whose callback the service has not taken: why, and when the next try is."""
    wanted = tuple(ids)
    marks = ",".join("?" * len(wanted))
    rows = store.rows(
        f"SELECT {column} AS id, last_result, due_at FROM callbacks"  # noqa: S608 (our own column name)
        f" WHERE attempts > 0 AND {column} IN ({marks})",
        wanted,
    )
    return {row["id"]: describe_trouble(row["last_result"], row["due_at"]) for row in rows}


def describe_trouble(result: str, due_at: float) -> str:
    reason = (
        f"the service answered {result}" if result.isdigit() else f"the service was not reached ({result})"
    )
    return f"but {reason}; next try at {clock_time(due_at)} UTC"
