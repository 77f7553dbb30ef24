"""How many parts a text is billed as, and which character makes it expensive (GSM 03.38, 3GPP TS 23.038).

GSM-7: 160 septets in one part, 153 in each of several. UCS-2: 70 and 67 units of 16 bits. An escaped
character (two septets) and a surrogate pair (two units) never straddle two parts. AT's pages do not state
these limits; what it bills is recorded and compared.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

Encoding = Literal["GSM-7", "UCS-2"]

BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENDED: Final = frozenset("\f^{}\\[~]|€")

_IS_BASIC = re.compile(f"[{re.escape(''.join(BASIC))}]*")
_NOT_GSM = re.compile(f"[^{re.escape(''.join(BASIC | EXTENDED))}]")
_EXTENDED = re.compile(f"[{re.escape(''.join(EXTENDED))}]")
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_IS_ASTRAL = "\uffff".__lt__

# Where decomposition does not lead to a GSM letter, or leads past a better one.
_ALTERNATIVES: Final = {
    **dict.fromkeys("‘’‚‛′ʼʻˈ`´＇", "'"),
    **dict.fromkeys("“”„‟″«»＂", '"'),
    **dict.fromkeys("‐‑‒–—―−•·▪◦", "-"),
    **dict.fromkeys("\t\u2028\u2029", " "),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f\ufeff", ""),
    **dict.fromkeys("ıİ", "i"),
    "‹": "<",
    "›": ">",
    "⁄": "/",
    "½": " 1/2",
    "¼": " 1/4",
    "¾": " 3/4",
    "×": "x",
    "÷": "/",
    "©": "(c)",
    "®": "(r)",
    "✓": "ok",
    "✔": "ok",
    "→": "->",
    "←": "<-",
    "…": "...",
    "œ": "oe",
    "Œ": "OE",
    "ð": "d",
    "Ð": "D",
    "đ": "d",
    "Đ": "D",
    "ł": "l",
    "Ł": "L",
    "þ": "th",
    "Þ": "Th",
    "ŋ": "ng",
    "Ŋ": "Ng",
    "ɓ": "b",
    "Ɓ": "B",
    "ɗ": "d",
    "Ɗ": "D",
    "ɖ": "d",
    "ƙ": "k",
    "Ƙ": "K",
    "ƴ": "y",
    "Ƴ": "Y",
    "ɛ": "e",
    "Ɛ": "E",
    "ɔ": "o",
    "Ɔ": "O",
    "ɣ": "gh",
    "ƒ": "f",
    "ẞ": "SS",
    "¢": "c",
    "₦": "N",
    "₵": "GHS",
    "Α": "A",
    "Β": "B",
    "Ε": "E",
    "Ζ": "Z",
    "Η": "H",
    "Ι": "I",
    "Κ": "K",
    "Μ": "M",
    "Ν": "N",
    "Ο": "O",
    "Ρ": "P",
    "Τ": "T",
    "Υ": "Y",
    "Χ": "X",
}


class Segments(NamedTuple):
    """`units`: septets or 16-bit units. `spill`: the first character outside GSM-7, None in GSM-7."""

    encoding: Encoding
    parts: int
    units: int
    spill: str | None


def measure(text: str) -> Segments:
    """What `text` costs in parts; an empty text has none."""
    length = len(text)
    if _IS_BASIC.fullmatch(text):
        return Segments("GSM-7", _divide(length, 160, 153), length, None)
    spill = _NOT_GSM.search(text)
    if spill is None:
        return _measure_with_pairs(text, "GSM-7", (160, 153), _EXTENDED, EXTENDED.__contains__)
    return _measure_with_pairs(text, "UCS-2", (70, 67), _ASTRAL, _IS_ASTRAL, spill[0])


def gsm7_alternative(character: str) -> str | None:
    """What to write instead of one character outside GSM-7: `’` → `'`, `ê` → `e`. None where nothing fits."""
    if character in BASIC or character in EXTENDED:
        return character
    found = _ALTERNATIVES.get(character)
    if found is not None:
        return found
    if unicodedata.combining(character):
        return ""
    decomposed = unicodedata.normalize("NFKD", character)
    plain = "".join(_ALTERNATIVES.get(one, one) for one in decomposed if not unicodedata.combining(one))
    return plain if plain and plain != character and not _NOT_GSM.search(plain) else None


def _measure_with_pairs(
    text: str,
    encoding: Encoding,
    limits: tuple[int, int],
    pairs: re.Pattern[str],
    is_pair: Callable[[str], bool],
    spill: str | None = None,
) -> Segments:
    single, several = limits
    units = len(text) + len(pairs.findall(text))
    if units <= single or units == len(text):
        return Segments(encoding, _divide(units, single, several), units, spill)
    return Segments(encoding, _pack(text, several, is_pair), units, spill)


def _divide(units: int, single: int, several: int) -> int:
    return min(units, 1) if units <= single else -(-units // several)


def _pack(text: str, limit: int, is_pair: Callable[[str], bool]) -> int:
    parts, used = 1, 0
    for character in text:
        size = 2 if is_pair(character) else 1
        if used + size > limit:
            parts, used = parts + 1, 0
        used += size
    return parts
