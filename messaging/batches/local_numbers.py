"""Numbers refused for want of their country: how many each DEFAULT_REGION would let in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

from utils.errors import InvalidPhone
from utils.phone_metadata import has_african_calling_code
from utils.phone_numbers import read_phone

# Enough to know which countries they may be of: trying all fifty on each number of a long file would take a minute.
TRIED_IN_ALL_REGIONS = 100
MOST_REGIONS = 3


def by_region(refused: Sequence[dict[str, str]], default_region: str | None) -> list[dict[str, Any]]:
    """`refused`: of a quote. The regions that would take most first; none where one is set already."""
    if default_region is not None:
        return []
    values = [one["to"] for one in refused if one["code"] == InvalidPhone.code]
    likely = [region for region, _ in _most(_regions(), values[:TRIED_IN_ALL_REGIONS])]
    return [{"region": region, "taken": taken} for region, taken in _most(likely, values)]


def sentence(found: Sequence[dict[str, Any]]) -> str:
    """Empty where no region would help."""
    if not found:
        return ""
    best, *others = found
    also = ", ".join(f"{one['taken']:,} with {one['region']}" for one in others)
    return (
        "No country is set for numbers without one (--region, default_region or DEFAULT_REGION):"
        f" of the refused numbers {best['taken']:,} would be taken with {best['region']}{f' ({also})' if also else ''}"
    )


def _most(regions: Iterable[str], values: Sequence[str]) -> list[tuple[str, int]]:
    counts = {region: sum(_is_taken(value, region) for value in values) for region in regions}
    helping = sorted((region for region in counts if counts[region]), key=lambda one: (-counts[one], one))
    return [(region, counts[region]) for region in helping[:MOST_REGIONS]]


def _is_taken(value: str, region: str) -> bool:
    try:
        return read_phone(value, region).warning is None
    except InvalidPhone:
        return False


@cache
def _regions() -> tuple[str, ...]:
    codes = (code for code in COUNTRY_CODE_TO_REGION_CODE if has_african_calling_code(str(code)))
    return tuple(sorted({COUNTRY_CODE_TO_REGION_CODE[code][0] for code in codes}))
