"""Who stopped which sender at their telco. AT offers no way to read, add or remove such an entry."""

import time

from .store import Store


class Blacklist:
    """Held in memory beside its table: asked for every recipient of every POST."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: frozenset[tuple[str, str]] = frozenset()
        self.reload()

    def reload(self) -> None:
        rows = self._store.rows("SELECT sender, number FROM blacklist")
        self._entries = frozenset((row["sender"], row["number"]) for row in rows)

    def blocked_by(self, sender: str) -> frozenset[str]:
        """The numbers that get nothing from this sender."""
        wanted = sender.casefold()
        return frozenset(number for blocked, number in self._entries if blocked == wanted)

    def add(self, sender: str, number: str) -> None:
        with self._store.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO blacklist (sender, number, shown_sender, blocked_at) VALUES (?, ?, ?, ?)",
                (sender.casefold(), number, sender, time.time()),
            )
        self.reload()

    def remove(self, sender: str, number: str) -> None:
        with self._store.write() as connection:
            connection.execute(
                "DELETE FROM blacklist WHERE sender = ? AND number = ?", (sender.casefold(), number)
            )
        self.reload()
