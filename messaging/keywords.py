"""Whole messages that mean something of their own, before anything else looks at them."""

from __future__ import annotations

import re
import unicodedata

STOP_WORDS = frozenset(
    {
        "stop",
        "stopall",
        "stop all",
        "unsubscribe",
        "end",
        "quit",
        "cancel",
        "optout",
        "opt out",
        "revoke",
    }
)
START_WORDS = frozenset({"start", "unstop"})
LONGEST_KEYWORD = 64
# Quotes, dots, dashes, emoji and the invisible marks of phones that mix directions of writing.
_NOT_A_WORD = re.compile(r"[\W_]+")


def meaning_of(text: str) -> str:
    """`stop`, `start` or `message`. Only the whole text counts: `STOP 12345` is a message."""
    if len(text) > LONGEST_KEYWORD:
        return "message"
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _NOT_A_WORD.sub(" ", plain).strip()
    if words in STOP_WORDS:
        return "stop"
    return "start" if words in START_WORDS else "message"
