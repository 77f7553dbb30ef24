"""Phone numbers as Africa's Talking's callbacks hold them. A STOP must not fail on the spelling of its number.

Networks send `+254711000777`, `254711000777`, `00254…`, with spaces, or the national `0711000777`; gateways write
`tel:+254711000777;ext=1` and `+254711000777/TYPE=PLMN`. The country code is looked for first; a number that is possible
suffices, for metadata ages.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote_plus

from utils.errors import InvalidPhone
from utils.phone_cleaning import clean_phone
from utils.phone_numbers import parse_dialled

# Longer than any shortcode, shorter than any number with its country code.
FEWEST_DIGITS_WITH_COUNTRY_CODE = 9
FEWEST_NATIONAL_DIGITS = 7
# As AT writes nearly all of them. Such a number has one reading, found at a tenth of the cost.
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
# What gateways put round a number. A word beside it, as in `Promo 0711000777`, makes it no number.
_SCHEME = re.compile(r"(?:tel|sms|smsto|sip):", re.IGNORECASE)
_PARAMETERS = re.compile(r"[;/@,?].*", re.DOTALL)
_DIGIT = re.compile(r"\d")
_MARKS = str.maketrans("", "", "'\"`_")


def read_callback_phone(text: str, default_region: str | None = None) -> tuple[str, ...]:
    """Every number (E.164) that this may be, the likeliest first.

    Two where it reads with a country code and as a national number too; none for a shortcode or a word like `MTN`.
    """
    if _E164.fullmatch(text):
        found = _e164(text)
        return (found,) if found else ()
    try:
        plain = clean_phone(_undecorated(text))
    except InvalidPhone:
        return ()
    dialled = plain.lstrip("+")
    digits = re.sub("^00+", "", dialled)
    if not (digits.isascii() and digits.isdigit()):
        return ()
    has_country_code = digits != plain
    readings: list[str | None] = []
    if has_country_code or len(digits) >= FEWEST_DIGITS_WITH_COUNTRY_CODE:
        readings.append(_e164(f"+{digits}"))
    # `+0711000777`: somebody put a plus before the national number.
    is_national = not has_country_code or (dialled.startswith("0") and not any(readings))
    if default_region and is_national and len(dialled) >= FEWEST_NATIONAL_DIGITS:
        readings.append(_e164(dialled, default_region))
    return tuple(dict.fromkeys(found for found in readings if found))


def _undecorated(text: str) -> str:
    """Other scripts' digits become ours."""
    bare = _PARAMETERS.sub("", _SCHEME.sub("", text.strip(), count=1))
    spelt = (str(unicodedata.digit(one, one)) for one in bare)
    return "".join(spelt).translate(_MARKS)


def _e164(text: str, default_region: str | None = None) -> str | None:
    try:
        return parse_dialled(text, default_region).e164
    except InvalidPhone:
        return None


def mask_digits(body: str) -> str:
    """A form, or JSON, in which nobody finds a number: a field with as many digits as one keeps none of them."""
    return "&".join(_masked(unquote_plus(field)) for field in body.split("&"))


def _masked(field: str) -> str:
    is_short = len(_DIGIT.findall(field)) < FEWEST_NATIONAL_DIGITS
    return field if is_short else _DIGIT.sub("•", field)
