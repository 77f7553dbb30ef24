"""libphonenumber's own patterns, one compiled expression per calling code: the fast path for E.164 numbers.

A full parse costs some 20 microseconds: 20 seconds for a million recipients. A calling code of one region
needs no search for the region, so its validity is a single match. Shared codes such as +1, numbers with
their national prefix left in and all doubtful ones get None here and take the library's way; a test holds
the two against each other.
"""

import re
from functools import cache
from typing import Any

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    REGION_CODE_FOR_NON_GEO_ENTITY,
    PhoneMetadata,
)

_TYPES = (
    "mobile",
    "fixed_line",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "voip",
    "personal_number",
    "pager",
    "uan",
    "voicemail",
)
_REGIONS: dict[str, str] = {
    f"+{code}": regions[0]
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items()
    if len(regions) == 1 and regions[0] != REGION_CODE_FOR_NON_GEO_ENTITY
}
_PATTERNS: dict[str, re.Pattern[str]] = {}  # by calling code, so it ends at their number
_AFRICAN_CODES = frozenset({20, 27, *(code for code in range(210, 300) if code not in (297, 298, 299))})


def region_if_plainly_valid(e164: str) -> str | None:
    """Region of a valid number that a parse would leave as it is. None says nothing about the number."""
    for length in (4, 3, 2):
        region = _REGIONS.get(e164[:length])
        if region is not None:
            pattern = _PATTERNS.get(e164[:length]) or _compile(e164[:length], region)
            return region if pattern.fullmatch(e164, length) else None
    return None


def has_african_calling_code(digits: str) -> bool:
    return digits[:2] in ("20", "27") or (digits[:3].isdigit() and int(digits[:3]) in _AFRICAN_CODES)


def is_african_national(digits: str) -> bool:
    """Whether it is a valid number within some African country as it stands, or with its zero lost or kept."""
    return any(pattern.fullmatch(digits) for pattern in _national_patterns().get(len(digits), ()))


@cache
def _national_patterns() -> dict[int, list[re.Pattern[str]]]:
    """By length, for a check against all fifty-eight regions would cost a millisecond."""
    found: dict[int, list[re.Pattern[str]]] = {}
    for code in sorted(_AFRICAN_CODES & COUNTRY_CODE_TO_REGION_CODE.keys()):
        for region in COUNTRY_CODE_TO_REGION_CODE[code]:
            metadata: Any = PhoneMetadata.metadata_for_region(region)
            prefix, valid = metadata.national_prefix, _valid(metadata)
            pattern = re.compile(f"(?:{prefix})?(?:{valid})" if prefix else valid, re.ASCII)
            for length in metadata.general_desc.possible_length:
                for with_prefix in {length, length + len(prefix or "")}:
                    found.setdefault(with_prefix, []).append(pattern)
    return found


def _compile(code: str, region: str) -> re.Pattern[str]:
    metadata: Any = PhoneMetadata.metadata_for_region(region)  # the stubs call every field optional
    prefix = metadata.national_prefix_for_parsing
    keeps_prefix = f"(?!{prefix})" if prefix else ""
    pattern = re.compile(f"{keeps_prefix}(?:{_valid(metadata)})", re.ASCII)
    return _PATTERNS.setdefault(code, pattern)


def _valid(metadata: Any) -> str:
    """An expression for the national numbers that are valid, without a national prefix."""
    descriptions = [getattr(metadata, name) for name in _TYPES]
    valid = "|".join(_expression(found) for found in descriptions if found and found.national_number_pattern)
    return f"(?={_expression(metadata.general_desc)}\\Z)(?:{valid})"


def _expression(description: Any) -> str:
    lengths = "|".join(rf"\d{{{length}}}" for length in description.possible_length if length > 0)
    fits = rf"(?=(?:{lengths})\Z)" if lengths else ""
    return f"(?:{fits}(?:{description.national_number_pattern}))"
