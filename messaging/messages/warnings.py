"""What is sent as it was asked for, but may not have been meant so: counted, and the first of it named."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_NAMED = 100
DOUBTFUL_NUMBER = "doubtful_number"
UNFILLED_PLACEHOLDER = "unfilled_placeholder"
_WORDS = r"[^\W\d_][\w .-]{0,40}"
# As other programs write them. A letter comes first: `[1]` and `<3` are none.
_LEFT_OVER = re.compile(rf"\{{{{?{_WORDS}\}}?\}}|\(\({_WORDS}\)\)|\[{_WORDS}\]|<{_WORDS}>")


@dataclass(slots=True)
class Warnings:
    """`counts`: all of them, by code. `named`: the first, each with its line and its number where it has them."""

    counts: Counter[str] = field(default_factory=Counter)
    named: list[dict[str, Any]] = field(default_factory=list)

    def add(self, code: str, message: str, *, line: int | None = None, to: str | None = None) -> None:
        self.counts[code] += 1
        if len(self.named) < MOST_NAMED:
            where = {"line": line, "to": to}
            known = {name: value for name, value in where.items() if value is not None}
            self.named.append(known | {"code": code, "message": message})

    def in_json(self) -> dict[str, Any]:
        return {"warnings": self.named, "warning_counts": dict(self.counts)}

    def as_stored(self) -> str | None:
        return json.dumps(self.in_json(), ensure_ascii=False) if self.counts else None


def left_over(text: str) -> list[str]:
    """What looks like a placeholder that nothing has filled: `{name}`, `((name))`, `[name]`, `<name>`; each once."""
    return list(dict.fromkeys(_LEFT_OVER.findall(text)))


def warn_of_left_over(
    warnings: Warnings, found: list[str], *, line: int | None = None, to: str | None = None
) -> None:
    for one in found:
        sentence = (
            f"The text holds {one}, which nothing fills: a placeholder of a file looks like {{{{column}}}}"
        )
        warnings.add(UNFILLED_PLACEHOLDER, sentence, line=line, to=to)


def read_stored(stored: str | None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = Warnings().in_json() if stored is None else json.loads(stored)
    return found
