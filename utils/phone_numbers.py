"""Phone numbers as people type them, files hold them and programs pass them, made E.164 or refused.

Policy: what libphonenumber calls impossible (by length) is refused; possible but not valid is taken with a
warning, because metadata ages and new prefixes appear before it does.

    require_e164    programs: E.164 with its plus, nothing else
    parse_phone     people: spaces, dashes, dots and brackets are tolerated; no country code needs a region
    read_phone      files and query strings: also a lost plus, `00`, and a spreadsheet's traces
"""

import re
from typing import Final, NamedTuple

import phonenumbers
from phonenumbers import REGION_CODE_FOR_NON_GEO_ENTITY, NumberParseException, ValidationResult
from phonenumbers.re_util import enable_pattern_cache

from utils.errors import InvalidPhone
from utils.phone_metadata import region_if_plainly_valid

enable_pattern_cache()  # without it the library recompiles patterns once it has seen many regions

MUST_START_WITH_PLUS: Final = "Invalid recipient format: must start with '+'"
NOT_KNOWN_VALID: Final = "This number is possible, but its prefix is not known to be in use"
NEEDS_COUNTRY_CODE: Final = "Start the number with + and its country code, like +254712345678"
ONLY_DIGITS: Final = "A phone number has only digits, with + before the country code"
EXCEL_NOTATION: Final = (
    "A spreadsheet has rounded this number (like 2.547E+11): format the column as text and export it again"
)
_IMPOSSIBLE = {
    ValidationResult.INVALID_COUNTRY_CODE: "No country has this calling code",
    ValidationResult.TOO_SHORT: "This number is too short for its country",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "This number is too short for its country",
    ValidationResult.TOO_LONG: "This number is too long for its country",
    ValidationResult.INVALID_LENGTH: "No number of its country has this length",
}
_LONGEST_INPUT = 40
_DIALLED = re.compile(r"\+?[0-9]+")
_EXCEL = re.compile(r"\+?[0-9]+(?:[.,][0-9]+)?[eE]\+?[0-9]+")
_DECIMAL = re.compile(r"(\+?[0-9]{7,})[.,]0+")
# Marks that phones, contact lists and word processors put between digits.
_INVISIBLE = "\u200b\u200e\u200f\u202a\u202c\u2060\ufeff"
_SEPARATORS = str.maketrans("", "", " -.()[]/\u00a0\u2007\u2009\u202f\u2010\u2011\u2012\u2013" + _INVISIBLE)


class PhoneNumber(NamedTuple):
    """`region`: two letters, None where unknown. `warning`: a sentence, None for a valid number."""

    e164: str
    warning: str | None
    region: str | None


def require_e164(phone: object) -> PhoneNumber:
    """The number a program gave, which has to be E.164. Raises InvalidPhone, also for what is no string."""
    if not isinstance(phone, str) or not phone.startswith("+"):
        raise InvalidPhone(MUST_START_WITH_PLUS, field="recipient")
    region = region_if_plainly_valid(phone)
    return PhoneNumber(phone, None, region) if region else _parse_dialled(phone, None)


def parse_phone(text: object, default_region: str | None = None) -> PhoneNumber:
    """The number a person typed. `default_region`: two letters, for numbers without a country code.

    Raises InvalidPhone.
    """
    if isinstance(text, str) and (region := region_if_plainly_valid(text)):
        return PhoneNumber(text, None, region)
    return _parse_dialled(strip_separators(text), default_region)


def read_phone(text: object, default_region: str | None = None) -> PhoneNumber:
    """As `parse_phone`, for a cell of a file or a query string, which may have lost the plus.

    The reading by `default_region` comes first, so that a local number is never taken for a foreign one.
    Raises InvalidPhone.
    """
    if isinstance(text, str) and text.startswith("+"):
        return parse_phone(text)
    plain = strip_separators(text)
    try:
        return _parse_dialled(plain, default_region)
    except InvalidPhone as error:
        try:
            return parse_phone(f"+{plain.removeprefix('00')}")
        except InvalidPhone:
            raise error from None


def region_of(e164: str) -> str | None:
    """Two letters of the country, None where the number or its region is not known."""
    try:
        return require_e164(e164).region
    except InvalidPhone:
        return None


def mask_phone(phone: str) -> str:
    """The number for a log line, `+2547…678`: enough to recognise, not enough to call."""
    return f"{phone[:5]}…{phone[-3:]}" if len(phone) > 10 else f"…{phone[-2:]}"


def strip_separators(text: object) -> str:
    """Without the marks that people and programs put between digits. Raises InvalidPhone."""
    if not isinstance(text, str):
        raise InvalidPhone(ONLY_DIGITS)
    if len(text) > _LONGEST_INPUT:
        raise InvalidPhone("This is too long for a phone number")
    if _EXCEL.fullmatch(text.strip(" ")):
        raise InvalidPhone(EXCEL_NOTATION, code="excel_notation")
    whole = _DECIMAL.fullmatch(text.strip(" "))  # 254712345678.0: a spreadsheet's or data frame's number
    return whole[1] if whole else text.translate(_SEPARATORS)


def _parse_dialled(plain: str, default_region: str | None) -> PhoneNumber:
    if not _DIALLED.fullmatch(plain):
        raise InvalidPhone(ONLY_DIGITS)
    if not plain.startswith("+") and default_region is None:
        raise InvalidPhone(NEEDS_COUNTRY_CODE)
    try:
        parsed = phonenumbers.parse(plain, default_region)
    except NumberParseException as error:
        raise InvalidPhone(_explain(error)) from None
    verdict = phonenumbers.is_possible_number_with_reason(parsed)
    if verdict != ValidationResult.IS_POSSIBLE:
        raise InvalidPhone(_IMPOSSIBLE[verdict])
    warning = None if phonenumbers.is_valid_number(parsed) else NOT_KNOWN_VALID
    e164 = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    region = phonenumbers.region_code_for_number(parsed)
    return PhoneNumber(e164, warning, None if region == REGION_CODE_FOR_NON_GEO_ENTITY else region)


def _explain(error: NumberParseException) -> str:
    if error.error_type == NumberParseException.INVALID_COUNTRY_CODE:
        return _IMPOSSIBLE[ValidationResult.INVALID_COUNTRY_CODE]
    if error.error_type == NumberParseException.TOO_LONG:
        return "This is too long for a phone number"
    return "This is too short for a phone number"
