"""`{{column}}` in the text of a batch, and `{{column|default}}` for a cell that may be empty."""

from __future__ import annotations

import re
from collections.abc import Sequence

from utils.csv_files import fold
from utils.errors import InvalidInput
from utils.texts import compose

_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")


class Placeholders:
    """A text with its placeholders found.

    `columns`: a name per placeholder, in order, as `fold` writes it. `defaults`: what stands where its cell is empty,
    None where that is a mistake. `literals`: the text round them. `format`: the text for `%`, which is the quickest
    way to fill one. Raises InvalidInput (invalid_placeholder) for one that is empty or never closed.
    """

    def __init__(self, text: str) -> None:
        pieces = _PLACEHOLDER.split(compose(text))
        self.literals, named = pieces[::2], [name.partition("|") for name in pieces[1::2]]
        self.columns = [fold(name) for name, _, _ in named]
        self.defaults = [default.strip() if mark else None for _, mark, default in named]
        if "" in self.columns or any("{{" in literal for literal in self.literals):
            raise InvalidInput(
                "A placeholder looks like {{column}}", code="invalid_placeholder", field="text"
            )
        self.format = "%s".join(literal.replace("%", "%%") for literal in self.literals)

    def fill(self, values: Sequence[str]) -> str:
        """With a value for each of `columns`."""
        return self.format % tuple(values)
