"""Which characters are none, which are seen by nobody, and one spelling for letters with accents."""

from __future__ import annotations

import re
import unicodedata

# "1600 characters" is repeated by three third parties (docs/africastalking.md, 2); AT's documents name no limit.
LONGEST_TEXT = 1600
REPLACEMENT = "\ufffd"
# NUL, and half of a surrogate pair, which JSON can spell (`"\ud83d"`) and UTF-8 cannot;
# a command line makes such halves of bytes that are not UTF-8.
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
# Beside spaces, controls and the marks of category Cf: fillers and selectors that draw nothing by themselves.
_DRAWS_NOTHING = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_SELECTORS = re.compile("[\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_INVISIBLE_CATEGORIES = frozenset({"Cf", "Cc", "Zs", "Zl", "Zp"})


def compose(text: str) -> str:
    """NFC, as texts are measured and sent: an accent apart from its letter makes a whole text UCS-2."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_blank(text: str) -> bool:
    """Whether nobody would see anything of it."""
    return all(map(_is_invisible, text))


def _is_invisible(character: str) -> bool:
    return (
        unicodedata.category(character) in _INVISIBLE_CATEGORIES
        or character in _DRAWS_NOTHING
        or _SELECTORS.match(character) is not None
    )


def is_text(text: str) -> bool:
    return _NO_CHARACTER.search(text) is None


def as_text(text: str) -> str:
    """The same with a mark in their place, for words that are only shown."""
    return _NO_CHARACTER.sub(REPLACEMENT, text)
