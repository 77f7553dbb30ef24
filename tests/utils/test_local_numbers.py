"""A local number never becomes a stranger's abroad: numbers without a plus, as spreadsheets and fingers spoil them."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import phonenumbers
import pytest
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

from utils.errors import InvalidPhone
from utils.phone_metadata import has_african_calling_code
from utils.phone_numbers import NEEDS_COUNTRY_CODE, PhoneNumber, read_phone, read_query_phone

MOST_ABROAD = 0.005
DRAWS = 100
# Their zero is part of the number itself: the library knows no national prefix there.
WITH_OWN_ZERO = {"BJ", "CG", "CI"}
AFRICA = sorted(
    region
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items()
    if has_african_calling_code(f"{code}0000000")
    for region in regions
    if region not in ("AC", "IO", "SH", "TA", "001")  # islands of some hundred people
)


class Spoilt(NamedTuple):
    e164: str
    typed: str


def mobiles(region: str, chance: random.Random) -> Iterator[str]:
    """Random valid national mobiles of one country, as E.164."""
    metadata = PhoneMetadata.metadata_for_region(region)
    assert metadata is not None
    assert metadata.mobile is not None
    assert metadata.mobile.example_number is not None
    example = metadata.mobile.example_number
    code, found = phonenumbers.country_code_for_region(region), 0
    while found < DRAWS:
        kept = chance.randrange(min(3, len(example)))
        rest = "".join(chance.choices("0123456789", k=len(example) - kept))
        number = f"+{code}{example[:kept]}{rest}"
        parsed = phonenumbers.parse(number)
        if phonenumbers.number_type(parsed) == phonenumbers.PhoneNumberType.MOBILE:
            yield phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
            found += 1


def kept_and_lost(e164: str, region: str) -> list[str]:
    """The national form, and what a spreadsheet leaves of it."""
    metadata = PhoneMetadata.metadata_for_region(region)
    national = e164[1 + len(str(phonenumbers.country_code_for_region(region))) :]
    prefix = metadata.national_prefix if metadata and metadata.national_prefix else ""
    return [prefix + national, (prefix + national).lstrip("0")]


def spoiled(e164: str, region: str, chance: random.Random) -> list[str]:
    """A digit too many and one too few, with the zero kept and lost; a zero doubled."""
    forms = kept_and_lost(e164, region)
    place = chance.randrange(2, 7)
    more = [form[:place] + chance.choice("0123456789") + form[place:] for form in forms]
    fewer = [form[:place] + form[place + 1 :] for form in forms]
    return [*more, *[form + "0" for form in forms], *fewer, "0" + forms[0]]


def read_or_none(typed: str, region: str | None) -> PhoneNumber | None:
    try:
        return read_phone(typed, region)
    except InvalidPhone:
        return None


@pytest.mark.parametrize("region", AFRICA)
def test_a_local_number_is_its_own_countrys_or_refused(region: str) -> None:
    chance = random.Random(f"numbers of {region}")
    home = f"+{phonenumbers.country_code_for_region(region)}"
    read, abroad = 0, []
    for e164 in mobiles(region, chance):
        whole = kept_and_lost(e164, region)
        for typed in whole:
            found = read_or_none(typed, region)
            assert found is not None, typed
            # Gabon's numbers of before 2009 are valid without their zero as well.
            assert found.e164 == e164 or region == "GA", typed
        for typed in [*whole, *spoiled(e164, region, chance)]:
            for default_region in (None, region):
                found = read_or_none(typed, default_region)
                read += 1
                if found is not None and not found.e164.startswith(home):
                    abroad.append((typed, default_region, found.e164))
    assert len(abroad) < MOST_ABROAD * read, abroad[:10]


@pytest.mark.parametrize("region", ["KE", "GH", "CI", "NG"])
def test_a_local_number_of_a_neighbour_does_not_go_abroad_without_a_region(region: str) -> None:
    chance = random.Random(5)
    for e164 in mobiles(region, chance):
        for typed in kept_and_lost(e164, region):
            with pytest.raises(InvalidPhone, match="DEFAULT_REGION"):
                read_phone(typed)


@pytest.mark.parametrize("typed", ["622000001", "685000001", "271234567", "0712345678", "12025550123"])
def test_without_a_region_a_short_number_needs_its_plus(typed: str) -> None:
    with pytest.raises(InvalidPhone) as caught:
        read_phone(typed)
    assert caught.value.message == NEEDS_COUNTRY_CODE
    assert "DEFAULT_REGION" in NEEDS_COUNTRY_CODE


@pytest.mark.parametrize(
    ("typed", "abroad", "country"), [("6220000012", "+6220000012", "ID"), ("61020805", "+61020805", "")]
)
def test_with_a_region_a_spoiled_number_is_refused_with_both_readings(
    typed: str, abroad: str, country: str
) -> None:
    with pytest.raises(InvalidPhone) as caught:
        read_phone(typed, "TZ")
    if country:
        assert "As a number of TZ" in caught.value.message
        assert f"As {abroad} it would be abroad ({country})" in caught.value.message


@pytest.mark.parametrize(
    ("typed", "region", "e164"),
    [
        ("712345678", "KE", "+254712345678"),
        ("0712345678", "KE", "+254712345678"),
        ("254712345678", "KE", "+254712345678"),
        ("622000001", "TZ", "+255622000001"),
        ("271234567", "TZ", "+255271234567"),
        ("712345678", "CI", "+2250712345678"),
        ("61234567", "CG", "+242061234567"),
        ("195123456", "BJ", "+2290195123456"),
        ("254712345678", "ZA", "+254712345678"),
        ("00254712345678", "ZA", "+254712345678"),
        ("000254712345678", "KE", "+254712345678"),
        ("919812345678", "KE", "+919812345678"),
        ("919812345678", None, "+919812345678"),
        ("27821234567", None, "+27821234567"),
        ("27821234567", "ZA", "+27821234567"),
    ],
)
def test_what_can_mean_only_one_thing_is_read(typed: str, region: str | None, e164: str) -> None:
    assert read_phone(typed, region) == (
        e164,
        None,
        phonenumbers.region_code_for_number(phonenumbers.parse(e164)),
    )


def test_a_new_prefix_of_the_region_is_taken_with_a_warning() -> None:
    assert read_phone("0999999999", "KE").warning
    assert read_phone("254999999999", "KE").warning


def test_a_number_that_is_only_possible_abroad_needs_its_plus() -> None:
    assert read_phone("+2547110000012").warning
    for region in (None, "UG"):
        with pytest.raises(InvalidPhone):
            read_phone("2547110000012", region)


def test_a_raw_plus_in_a_query_is_believed() -> None:
    assert read_query_phone(" 622000001") == read_phone("+622000001")
    assert read_query_phone(" 6220000012", "TZ").e164 == "+6220000012"
    assert read_query_phone(" 0712345678", "KE").e164 == "+254712345678"
    assert read_query_phone("712345678 ", "KE").e164 == "+254712345678"
