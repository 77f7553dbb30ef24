"""A phone number as people paste it, freed from the marks that programs leave: one function for every door.

Exporters and chat programs put directional marks, soft hyphens and variation selectors into numbers, phones write
dashes and spaces of every kind, spreadsheets keep an apostrophe or `="+254…"` so as not to round the number.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from utils.errors import InvalidPhone

ONLY_DIGITS: Final = "A phone number has only digits, with + before the country code"
EXCEL_NOTATION: Final = (
    "A spreadsheet has rounded this number (like 2.547E+11): format the column as text and export it again"
)
TWO_NUMBERS: Final = "This looks like two numbers in one place: give each number a row or entry of its own"
NO_NUMBER: Final = "There is no phone number here"
TOO_LONG: Final = "This is too long for a phone number"
# What databases, spreadsheets and data frames write where there is nothing. `Null` is a family name, "none" an answer.
EMPTY_SIGNS: Final = frozenset(
    {
        "NULL",
        "null",
        "nan",
        "NaN",
        "NAN",
        "NaT",
        "None",
        "<NA>",
        "N/A",
        "n/a",
        "-",
        "--",
        "---",
        "\u2013",
        "\u2014",
        "\\N",
    }
    | {"#N/A", "#NULL!", "#VALUE!", "#REF!", "#NAME?", "#DIV/0!", "#NUM!"}
)
_LONGEST_INPUT = 200
_LONGEST_NUMBER = 40
_MOST_DIGITS = 17  # E.164 has 15 and a dialling prefix two more; two numbers have at least 18
_FEWEST_DIGITS_OF_TWO = 8  # `+254711000001/2`, but not `=1+1`
_EXCEL = re.compile(r"\+?[0-9]+(?:[.,][0-9]+)?[eE]\+?[0-9]+")
_DECIMAL = re.compile(r"(\+?[0-9]{7,})[.,]0+")
_FORMULA = re.compile(r'=?"(.*)"|=(\+?[0-9 ]+)')
_TWO = re.compile(r"[0-9)\]] *(?:[/\\|,;&\n\r\t]|or|and|ou|et)[ \n\r\t]*[+(0-9]|[0-9)\]][^+]*\+")
_APOSTROPHES = ("'", "\u2018", "\u2019")
_SEPARATORS = str.maketrans("", "", " -.()[]")
_DASHES = frozenset("\u02d7\u2043\u2212\u2796")  # those that Unicode does not call dashes
_VARIATION_SELECTORS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))


class _Plain(dict[int, int | str | None]):
    """For `str.translate`. Nothing is kept: a caller could fill it with all of Unicode."""

    def __missing__(self, code: int) -> int | str | None:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cf" or any(first <= code <= last for first, last in _VARIATION_SELECTORS):
            return None
        if category == "Zs":
            return " "
        if category in ("Zl", "Zp"):
            return "\n"
        return "-" if category == "Pd" or character in _DASHES else code


_PLAIN = _Plain({code: code for code in range(0x80)})


def clean_phone(text: object) -> str:
    """Digits, with a plus before them where there was one; whatever else is no number stays, for the caller to refuse.

    Raises InvalidPhone: `missing_phone` for an empty cell or a sign of one, `two_numbers`, `excel_notation`.
    """
    if not isinstance(text, str):
        raise InvalidPhone(ONLY_DIGITS)
    if len(text) > _LONGEST_INPUT:
        raise InvalidPhone(TOO_LONG)
    bare = _unwrapped(text.translate(_PLAIN).strip())
    if is_empty_cell(bare):
        raise InvalidPhone(NO_NUMBER, code="missing_phone")
    if _EXCEL.fullmatch(bare):
        raise InvalidPhone(EXCEL_NOTATION, code="excel_notation")
    if whole := _DECIMAL.fullmatch(bare):  # 254712345678.0: a spreadsheet's or data frame's number
        return whole[1]
    if _TWO.search(bare) and sum(map(str.isdecimal, bare)) >= _FEWEST_DIGITS_OF_TWO:
        raise InvalidPhone(TWO_NUMBERS, code="two_numbers")
    plain = bare.translate(_SEPARATORS)
    if plain.isdecimal() and len(plain) > _MOST_DIGITS and " " in bare:
        raise InvalidPhone(TWO_NUMBERS, code="two_numbers")
    if len(plain) > _LONGEST_NUMBER:
        raise InvalidPhone(TOO_LONG)
    return plain


def is_empty_cell(text: str) -> bool:
    """Whether there is nothing in it, or a sign that says so."""
    bare = text.strip()
    return not bare or bare in EMPTY_SIGNS


def _unwrapped(text: str) -> str:
    if formula := _FORMULA.fullmatch(text):
        text = next(found for found in formula.groups() if found is not None).strip()
    return text[1:].lstrip() if text.startswith(_APOSTROPHES) else text
