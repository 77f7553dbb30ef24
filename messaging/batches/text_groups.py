"""Which rows of a batch have the same text, so that they can share a POST."""

from __future__ import annotations

MOST_TEXTS = 1000


class TextGroups:
    """Numbers texts by the row in which each came first. Only the first thousand different texts are remembered."""

    def __init__(self) -> None:
        self._first_row: dict[str, int] = {}

    def number(self, text: str, row: int) -> int:
        known = self._first_row.get(text)
        if known is not None:
            return known
        if len(self._first_row) < MOST_TEXTS:
            self._first_row[text] = row
        return row
