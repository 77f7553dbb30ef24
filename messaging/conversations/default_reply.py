"""The default reply to an inbound message, made from the operator's template."""

from __future__ import annotations

import unicodedata

from utils.segments import measure
from utils.texts import compose

PLACEHOLDER = "{text}"
# Not the character "…": it would turn the whole reply into UCS-2, 70 characters instead of 160.
CUT_MARK = "..."
LONGEST_PART = 160
ZERO_WIDTH_JOINER = "\u200d"


def reply_to(template: str, text: str) -> str:
    """The template with the text in it, the text cut so that the whole is one part.

    A template that is longer by itself, or quotes nothing, stays as it is: its length was chosen.
    """
    whole = template.replace(PLACEHOLDER, text)
    if PLACEHOLDER not in template or _is_one_part(whole):
        return whole
    if not _is_one_part(template.replace(PLACEHOLDER, CUT_MARK)):
        return template.replace(PLACEHOLDER, "")
    return _fill(template, text, _longest_that_fits(template, text))


def _longest_that_fits(template: str, text: str) -> int:
    """By halving: what is shorter fits too, for it is never in a wider encoding."""
    fits, too_long = 0, min(len(text), LONGEST_PART) + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if _is_one_part(_fill(template, text, middle)):
            fits = middle
        else:
            too_long = middle
    while fits and _splits_character(text, fits):
        fits -= 1
    return fits


def _fill(template: str, text: str, length: int) -> str:
    return template.replace(PLACEHOLDER, text[:length].rstrip() + CUT_MARK)


def _is_one_part(text: str) -> bool:
    return measure(compose(text)).parts <= 1


def _splits_character(text: str, at: int) -> bool:
    """Whether a cut here parts what a person sees as one: an accent from its letter, a family of emoji."""
    if at >= len(text):
        return False
    following = text[at]
    return (
        unicodedata.category(following).startswith("M")
        or ZERO_WIDTH_JOINER in (following, text[at - 1])
        or "\U0001f3fb" <= following <= "\U0001f3ff"
    )
