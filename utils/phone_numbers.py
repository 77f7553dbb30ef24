"""Phone numbers as people type them, files hold them and programs pass them, made E.164 or refused.

A plus is believed: what libphonenumber calls impossible (by length) is refused; possible but not valid is taken with a
warning, because metadata ages and new prefixes appear before it does. Without a plus a number is somebody's own
country's first of all: a local number whose zero a spreadsheet ate must never reach a stranger abroad.

    require_e164     programs: E.164 with its plus, nothing else
    read_phone       people, files, lists: every mark that `clean_phone` knows, the plus perhaps lost
    read_query_phone query strings, where a raw plus arrives as a space
    parse_dialled    the library's own reading, possible suffices: for Africa's Talking's callbacks
"""

from typing import Final, NamedTuple

import phonenumbers
from phonenumbers import REGION_CODE_FOR_NON_GEO_ENTITY, NumberParseException, PhoneMetadata, ValidationResult
from phonenumbers.re_util import enable_pattern_cache

from utils.errors import InvalidInput, InvalidPhone
from utils.phone_cleaning import ONLY_DIGITS, TOO_LONG, clean_phone
from utils.phone_metadata import has_african_calling_code, is_african_national, region_if_plainly_valid

enable_pattern_cache()  # without it the library recompiles patterns once it has seen many regions

MUST_START_WITH_PLUS: Final = "Invalid recipient format: must start with '+'"
NOT_KNOWN_VALID: Final = (
    "This number is possible, but no number of its country is known to look like it: check its digits"
)
NEEDS_COUNTRY_CODE: Final = (
    "Start the number with + and its country code, like +254712345678;"
    " or set the country of numbers without one, for a file or as DEFAULT_REGION"
)
_IMPOSSIBLE = {
    ValidationResult.INVALID_COUNTRY_CODE: "No country has this calling code",
    ValidationResult.TOO_SHORT: "This number is too short for its country",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "This number is too short for its country",
    ValidationResult.TOO_LONG: "This number is too long for its country",
    ValidationResult.INVALID_LENGTH: "No number of its country has this length",
}
# Fewer digits are also what is left of a national number, or one with a digit too many.
_FEWEST_DIGITS_WITHOUT_PLUS = 12
_FEWEST_AFRICAN_DIGITS_WITHOUT_PLUS = 11


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
    return PhoneNumber(phone, None, region) if region else parse_dialled(phone)


def read_phone(text: object, default_region: str | None = None) -> PhoneNumber:
    """The number a person typed or a file holds. `default_region`: two letters, for numbers without a country code.

    Raises InvalidPhone, whose sentence names what the number may have meant.
    """
    if isinstance(text, str) and (region := region_if_plainly_valid(text)):
        return PhoneNumber(text, None, region)
    plain = clean_phone(text)
    if plain.startswith("+"):
        return parse_dialled(plain)
    if not _is_digits(plain):
        raise InvalidPhone(ONLY_DIGITS)
    if plain.startswith("00"):
        return _read_dialled_abroad(plain.lstrip("0"), default_region)
    return _read_without_plus(plain, default_region)


def read_query_phone(text: str, default_region: str | None = None) -> PhoneNumber:
    """As `read_phone`; a leading space was a plus. No country's code starts with 0, so there it was a space."""
    plain = text.lstrip(" ")
    is_plus = plain != text and plain[:1].isdecimal() and not plain.startswith("0")
    return read_phone(f"+{plain}" if is_plus else text, default_region)


def read_region(region: str | None) -> str | None:
    """Two letters in capitals. Raises InvalidInput where no country has them."""
    if region is None or region.upper() in phonenumbers.SUPPORTED_REGIONS:
        return region and region.upper()
    sentence = "A country is named by its two letters, like KE"
    raise InvalidInput(sentence, code="invalid_region", field="default_region")


def region_of(e164: str) -> str | None:
    """Two letters of the country, None where the number or its region is not known."""
    try:
        return require_e164(e164).region
    except InvalidPhone:
        return None


def national_number(e164: str) -> str:
    """Its digits without the country code and without a leading zero of dialling."""
    return phonenumbers.national_significant_number(phonenumbers.parse(e164))


def mask_phone(phone: str) -> str:
    """The number for a log line, `+2547…678`: enough to recognise, not enough to call."""
    return f"{phone[:5]}…{phone[-3:]}" if len(phone) > 10 else f"…{phone[-2:]}"


def parse_dialled(plain: str, default_region: str | None = None) -> PhoneNumber:
    """Digits as libphonenumber reads them, with a plus or dialled in `default_region`. Raises InvalidPhone."""
    if not _is_digits(plain.removeprefix("+")):
        raise InvalidPhone(ONLY_DIGITS)
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


def _is_digits(plain: str) -> bool:
    return plain.isascii() and plain.isdigit()


def _read_without_plus(digits: str, region: str | None) -> PhoneNumber:
    """The default region's own number, valid; else a valid one abroad; else a likely one of the default region."""
    if region is None:
        abroad = _abroad(digits, _FEWEST_AFRICAN_DIGITS_WITHOUT_PLUS)
        if abroad is None:
            raise InvalidPhone(NEEDS_COUNTRY_CODE)
        return abroad
    own, trouble = _own(digits, region)
    if own is not None and own.warning is None:
        return own
    found = _abroad(digits, _FEWEST_DIGITS_WITHOUT_PLUS) or own
    if found is None:
        raise InvalidPhone(_both_readings(digits, region, trouble))
    return found


def _read_dialled_abroad(digits: str, region: str | None) -> PhoneNumber:
    """Behind `00`. It may be a spoiled national number with a zero doubled, so it is not believed as a plus is."""
    found = _abroad(digits, _FEWEST_AFRICAN_DIGITS_WITHOUT_PLUS)
    if found is None and region and digits.startswith(_calling_code(region)):
        found = _if_possible(f"+{digits}")
    if found is None:
        raise InvalidPhone(NEEDS_COUNTRY_CODE)
    return found


def _abroad(digits: str, fewest_african: int) -> PhoneNumber | None:
    fewest = fewest_african if has_african_calling_code(digits) else _FEWEST_DIGITS_WITHOUT_PLUS
    if len(digits) < fewest or is_african_national(digits):
        return None
    found = _if_possible(f"+{digits}")
    return found if found and found.warning is None else None


def _if_possible(plain: str) -> PhoneNumber | None:
    region = region_if_plainly_valid(plain)
    if region:
        return PhoneNumber(plain, None, region)
    try:
        return parse_dialled(plain)
    except InvalidPhone:
        return None


def _own(digits: str, region: str) -> tuple[PhoneNumber | None, str]:
    """The number of this region that it is, with its zero kept or lost or its calling code; else what is wrong."""
    found, trouble = _as_dialled(digits, region)
    if found is None or found.warning:
        regained, _ = _as_dialled(f"0{digits}", region) if _may_lack_own_zero(digits, region) else (None, "")
        if regained and (found is None or regained.warning is None):
            found = regained
    return found, trouble


def _as_dialled(digits: str, region: str) -> tuple[PhoneNumber | None, str]:
    try:
        found = parse_dialled(digits, region)
    except InvalidPhone as error:
        return None, error.message
    if found.warning is None or _is_likely(found.e164, digits, region):
        return found, ""
    return None, NOT_KNOWN_VALID


def _may_lack_own_zero(digits: str, region: str) -> bool:
    """Where the zero is part of the number itself (Benin, Congo, Côte d'Ivoire) a spreadsheet eats that, too."""
    metadata = PhoneMetadata.metadata_for_region(region)
    return metadata is not None and not metadata.national_prefix and not digits.startswith("0")


def _is_likely(e164: str, digits: str, region: str) -> bool:
    """Not known to be valid, but as long as a mobile number of the region, or with its calling code before it."""
    code = f"+{_calling_code(region)}"
    metadata = PhoneMetadata.metadata_for_region(region)
    if metadata is None or metadata.mobile is None or not e164.startswith(code):
        return False
    return e164 == f"+{digits}" or len(e164) - len(code) in metadata.mobile.possible_length


def _calling_code(region: str) -> str:
    return str(phonenumbers.country_code_for_region(region))


def _both_readings(digits: str, region: str, trouble: str) -> str:
    abroad = _if_possible(f"+{digits}")
    if abroad is None:
        return trouble
    country = f" ({abroad.region})" if abroad.region else ""
    return (
        f"As a number of {region}: {trouble[0].lower()}{trouble[1:]}."
        f" As {abroad.e164} it would be abroad{country}. Start it with + and its country code"
    )


def _explain(error: NumberParseException) -> str:
    if error.error_type == NumberParseException.INVALID_COUNTRY_CODE:
        return _IMPOSSIBLE[ValidationResult.INVALID_COUNTRY_CODE]
    if error.error_type == NumberParseException.TOO_LONG:
        return TOO_LONG
    return "This is too short for a phone number"
