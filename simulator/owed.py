"""Callbacks that AT owes the service: kept until the service answers 200, or twelve hours are over.

AT repeats an inbound callback every minute for 12 hours until it gets 200 (its help centre); whether it also repeats
reports and opt-outs is not documented, so the simulator takes the harder case and does.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .store import Store, insert_rows

KEPT_SECONDS = 12 * 3600
# A report posted inside the send request is also owed, in case the simulator dies before it is through.
EARLY_FALLBACK_SECONDS = 30

OWED_COLUMNS = "kind, body, due_at, expires_at, text_id, inbound_id, word"
OwedRow = tuple[str, str, float, float, int | None, int | None, str | None]


@dataclass(frozen=True, slots=True)
class Owed:
    id: int
    kind: str
    body: str
    attempts: int
    expires_at: float
    text_id: int | None
    inbound_id: int | None
    word: str | None
    epoch: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """``result`` is the HTTP status as text, or the name of what went wrong."""

    owed: Owed
    result: str
    ended_at: float

    @property
    def is_acknowledged(self) -> bool:
        return self.result == "200"

    @property
    def is_over(self) -> bool:
        return self.is_acknowledged or self.ended_at >= self.owed.expires_at


def owe(connection: sqlite3.Connection, rows: Sequence[OwedRow]) -> None:
    insert_rows(connection, "callbacks", OWED_COLUMNS, rows)


def due_callbacks(store: Store, now: float, limit: int) -> list[Owed]:
    epoch = store.epoch
    rows = store.rows("SELECT * FROM callbacks WHERE due_at <= ? ORDER BY due_at LIMIT ?", (now, limit))
    return [owed_from(row, epoch) for row in rows]


def callbacks_by_id(store: Store, ids: range) -> list[Owed]:
    epoch = store.epoch
    rows = store.rows("SELECT * FROM callbacks WHERE id >= ? AND id < ?", (ids.start, ids.stop))
    return [owed_from(row, epoch) for row in rows]


def owed_from(row: sqlite3.Row, epoch: int) -> Owed:
    return Owed(
        row["id"],
        row["kind"],
        row["body"],
        row["attempts"],
        row["expires_at"],
        row["text_id"],
        row["inbound_id"],
        row["word"],
        epoch,
    )


def next_due_at(store: Store) -> float | None:
    due_at: float | None = store.row("SELECT min(due_at) AS due_at FROM callbacks")["due_at"]
    return due_at


def settle(store: Store, attempts: Iterable[Attempt], retry_seconds: float) -> None:
    """Write what came of the attempts, all in one transaction; those of an earlier epoch are forgotten."""
    with store.write() as connection:
        current = [attempt for attempt in attempts if attempt.owed.epoch == store.epoch]
        acknowledged = [attempt for attempt in current if attempt.is_acknowledged]
        over = [attempt for attempt in current if attempt.is_over]
        again = [attempt for attempt in current if not attempt.is_over]
        connection.executemany("DELETE FROM callbacks WHERE id = ?", [(each.owed.id,) for each in over])
        connection.executemany(
            "UPDATE callbacks SET attempts = attempts + 1, last_result = ?, due_at = ? WHERE id = ?",
            [(each.result, each.ended_at + retry_seconds, each.owed.id) for each in again],
        )
        note_acknowledged(connection, acknowledged)
        connection.execute(
            "UPDATE totals SET callback_attempts = callback_attempts + ?,"
            " callbacks_acknowledged = callbacks_acknowledged + ?, callbacks_given_up = callbacks_given_up + ?",
            (len(current), len(acknowledged), len(over) - len(acknowledged)),
        )


def note_acknowledged(connection: sqlite3.Connection, acknowledged: Sequence[Attempt]) -> None:
    reports = [
        (each.owed.word, each.ended_at, each.owed.text_id) for each in acknowledged if each.owed.text_id
    ]
    connection.executemany("UPDATE texts SET reported = ?, reported_at = ? WHERE id = ?", reports)
    inbound = [(each.ended_at, each.owed.inbound_id) for each in acknowledged if each.owed.inbound_id]
    connection.executemany("UPDATE inbound SET acknowledged_at = ? WHERE id = ?", inbound)
