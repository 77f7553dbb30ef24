"""How many parts AT bills for a text, and what it costs.

GSM 03.38: 160 septets, or 153 a part; UCS-2: 70 units, or 67 a part. A character is never split over two parts.
"""

from collections.abc import Iterable
from decimal import Decimal

PRICE_PER_PART = Decimal("0.8000")
CURRENCY = "KES"

GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION = frozenset("\f^{}\\[~]|€")


def count_parts(text: str) -> int:
    if GSM_BASIC.union(GSM_EXTENSION).issuperset(text):
        return fill_parts([2 if letter in GSM_EXTENSION else 1 for letter in text], 160, 153)
    return fill_parts([2 if ord(letter) > 0xFFFF else 1 for letter in text], 70, 67)


def fill_parts(widths: Iterable[int], alone: int, joined: int) -> int:
    widths = list(widths)
    if sum(widths) <= alone:
        return 1
    parts, used = 1, 0
    for width in widths:
        if used + width > joined:
            parts, used = parts + 1, 0
        used += width
    return parts


def money(amount: Decimal) -> str:
    """AT's form of an amount: ``KES 0.8000``."""
    return f"{CURRENCY} {amount:.4f}"
