"""CSV cells that a spreadsheet cannot take for a formula."""

from __future__ import annotations

import re

# `=`, `+`, `-`, `@` begin a formula, also in their full-width form; a leading tab or line end is dropped first.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_E164 = re.compile(r"\+[0-9]+")


def harmless_cell(text: str) -> str:
    """The text, behind an apostrophe where a spreadsheet would compute it.

    A phone number keeps its plus as it is: as a formula it is only a number, and programs need it unmarked.
    """
    return f"'{text}" if _FORMULA.match(text) and not _E164.fullmatch(text) else text


def without_mark(text: str) -> str:
    """What `harmless_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text
