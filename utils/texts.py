"""Which characters are none: no database, no wire and no phone takes them."""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
# NUL, and half of a surrogate pair, which JSON can spell (`"\ud83d"`) and UTF-8 cannot;
# a command line makes such halves of bytes that are not UTF-8.
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")


def is_text(text: str) -> bool:
    return _NO_CHARACTER.search(text) is None


def as_text(text: str) -> str:
    """The same with a mark in their place, for words that are only shown."""
    return _NO_CHARACTER.sub(REPLACEMENT, text)
