"""Phone numbers as Africa's Talking's callbacks hold them. A STOP must not fail on the spelling of its number.

Networks send `+254711000777`, `254711000777`, `00254…`, with spaces, or the national `0711000777`. The country code is
looked for first; a number that is possible suffices, for metadata ages.
"""

from __future__ import annotations

from utils.errors import InvalidPhone
from utils.phone_numbers import parse_phone, strip_separators

# Longer than any shortcode, shorter than any number with its country code.
FEWEST_DIGITS_WITH_COUNTRY_CODE = 9
FEWEST_NATIONAL_DIGITS = 7


def read_callback_phone(text: str, default_region: str | None = None) -> tuple[str, ...]:
    """Every number (E.164) that this may be, the likeliest first.

    Two where it reads with a country code and as a national number too; none for a shortcode or a word like `MTN`.
    """
    try:
        plain = strip_separators(text)
    except InvalidPhone:
        return ()
    digits = plain.removeprefix("+").removeprefix("00")
    if not (digits.isascii() and digits.isdigit()):
        return ()
    has_country_code = digits != plain
    readings: list[str | None] = []
    if has_country_code or len(digits) >= FEWEST_DIGITS_WITH_COUNTRY_CODE:
        readings.append(_e164(f"+{digits}"))
    if default_region and not has_country_code and len(plain) >= FEWEST_NATIONAL_DIGITS:
        readings.append(_e164(plain, default_region))
    return tuple(dict.fromkeys(found for found in readings if found))


def _e164(text: str, default_region: str | None = None) -> str | None:
    try:
        return parse_phone(text, default_region).e164
    except InvalidPhone:
        return None
