"""Numbers taken and refused, and the fast path against libphonenumber itself."""

import random

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberFormat

from utils.errors import InvalidPhone
from utils.phone_cleaning import EXCEL_NOTATION, NO_NUMBER, TWO_NUMBERS
from utils.phone_metadata import region_if_plainly_valid
from utils.phone_numbers import (
    MUST_START_WITH_PLUS,
    NOT_KNOWN_VALID,
    PhoneNumber,
    mask_phone,
    read_phone,
    region_of,
    require_e164,
)

ME = "+254712345678"
ARABIC_INDIC = "+\u0662\u0665\u0664\u0667\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668"


@pytest.mark.parametrize(
    ("number", "region"),
    [
        (ME, "KE"),
        ("+233240123456", "GH"),
        ("+256701234567", "UG"),
        ("+2348034567890", "NG"),
        ("+12025550123", "US"),
    ],
)
def test_a_valid_number_is_taken_without_a_warning(number: str, region: str) -> None:
    assert require_e164(number) == read_phone(number) == (number, None, region)


def test_a_possible_number_of_an_unknown_prefix_is_taken_with_a_warning() -> None:
    assert require_e164("+254999999999") == PhoneNumber("+254999999999", NOT_KNOWN_VALID, "KE")


@pytest.mark.parametrize(
    "phone", ["0712345678", "254712345678", "712345678", "", "   ", None, 254712345678, ["+"]]
)
def test_a_program_has_to_say_the_plus(phone: object) -> None:
    with pytest.raises(InvalidPhone) as caught:
        require_e164(phone)
    assert str(caught.value) == MUST_START_WITH_PLUS == "Invalid recipient format: must start with '+'"


# The SDK's own pattern takes most of these (docs/africastalking.md, 9, row 3).
IMPOSSIBLE = [
    "+",
    "+1234",
    "+0711000111",
    "+" + "2" * 28,
    "+" + "254712345678" * 3,
    "+25471234567800",
    "+254",
    "+999123456789",
    ARABIC_INDIC,
    "+25471234567\u0668",
    "+2547ABC45678",
    "+254712345678;ext=5",
    "\uff0b254712345678",
    "++254712345678",
    "+254712+345678",
]


@pytest.mark.parametrize("phone", IMPOSSIBLE, ids=ascii)
@pytest.mark.parametrize("read", [require_e164, read_phone])
def test_what_cannot_be_a_number_is_refused_everywhere(read: object, phone: str) -> None:
    with pytest.raises(InvalidPhone):
        read(phone)  # type: ignore[operator]


@pytest.mark.parametrize("phone", [" +254712345678", "+254 712 345 678", "+254-712345678", "+254712345678 "])
def test_a_program_may_not_punctuate(phone: str) -> None:
    with pytest.raises(InvalidPhone):
        require_e164(phone)


TYPED = [
    "+254 712 345 678",
    " +254712345678 ",
    "+254-712-345-678",
    "+254.712.345.678",
    "+254 (712) 345678",
    "+254[712]345 678",
    "+254\u00a0712\u00a0345\u00a0678",
    "\u202a+254712345678\u202c",
    "+254\u2011712\u2011345678",
    "+254 0712 345678",
    "+254712345678.0",
]


@pytest.mark.parametrize("typed", TYPED, ids=ascii)
def test_what_a_person_puts_between_digits_is_dropped(typed: str) -> None:
    assert read_phone(typed).e164 == ME


# What exporters, chat programs and spreadsheets put round and into a number.
PASTED = [
    *[f"{mark}+254712345678{mark}" for mark in map(chr, (*range(0x200B, 0x2010), *range(0x202A, 0x202F)))],
    *[f"{mark}+254712345678{mark}" for mark in map(chr, (*range(0x2066, 0x206A), 0x2060, 0xFEFF, 0xAD))],
    *[f"+254712{mark}345678" for mark in map(chr, (0xFE00, 0xFE0F, 0xE0100, 0x180B))],
    *[
        f"+254{dash}712{dash}345{dash}678"
        for dash in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
    ],
    *[f"+254{space}712{space}345678" for space in "\xa0\u1680\u2002\u2003\u2009\u200a\u202f\u205f\u3000"],
    "\t+254712345678\t",
    "+254712345678\r\n",
    "\u2028+254712345678\x0b",
    "'+254712345678",
    "\u2019+254712345678",
    "' 254712345678",
    '="+254712345678"',
    '="254712345678"',
    "=+254712345678",
    '"+254712345678"',
]


@pytest.mark.parametrize("pasted", PASTED, ids=ascii)
def test_marks_that_programs_leave_do_not_break_a_number(pasted: str) -> None:
    assert read_phone(pasted).e164 == ME


TWO = [
    "+254711000001/2",
    "+254711000001 / +254722000001",
    "0711000001/0722000001",
    "0711000001, 0722000001",
    "0711000001;0722000001",
    "0711000001 or 0722000001",
    "0711000001\n0722000001",
    "0711000001 0722000001",
    "+254711000001 +254722000001",
    "+254711000001+254722000001",
]


@pytest.mark.parametrize("cell", TWO)
def test_a_cell_with_two_numbers_is_refused_and_says_so(cell: str) -> None:
    with pytest.raises(InvalidPhone) as caught:
        read_phone(cell, "KE")
    assert (caught.value.code, caught.value.message) == ("two_numbers", TWO_NUMBERS)


@pytest.mark.parametrize(
    "cell", ["", "  ", "\u200b", "NULL", "nan", "NaN", "#N/A", "-", " \u2013 ", "N/A", "None"]
)
def test_the_sign_of_an_empty_cell_is_no_number(cell: str) -> None:
    with pytest.raises(InvalidPhone) as caught:
        read_phone(cell, "KE")
    assert (caught.value.code, caught.value.message) == ("missing_phone", NO_NUMBER)


def test_a_number_without_country_code_needs_a_region() -> None:
    assert read_phone("0712 345 678", "KE").e164 == ME
    with pytest.raises(InvalidPhone, match=r"country code, like.*DEFAULT_REGION"):
        read_phone("0712345678")


@pytest.mark.parametrize(
    "cell", ["254712345678", "254 712 345 678", "00254712345678", "254712345678.0", " 254712345678"]
)
@pytest.mark.parametrize("region", [None, "KE", "UG"])
def test_a_lost_plus_is_put_back(cell: str, region: str | None) -> None:
    assert read_phone(cell, region).e164 == ME


def test_a_local_number_is_not_taken_for_a_foreign_one() -> None:
    # As +202 5550123 it would be Egyptian.
    assert read_phone("2025550123", "US").e164 == "+12025550123"


@pytest.mark.parametrize("cell", ["0712345678", "712345678", "12", "", "none"])
def test_a_cell_that_no_plus_can_mend_is_refused(cell: str) -> None:
    with pytest.raises(InvalidPhone):
        read_phone(cell)


@pytest.mark.parametrize(
    "cell", ["2.547E+11", "2,547E+11", "2.54712E+11", " 2.547e11 ", "+2.547E+11", "3E+11"]
)
def test_a_spreadsheets_rounding_is_refused_with_that_explanation(cell: str) -> None:
    with pytest.raises(InvalidPhone) as caught:
        read_phone(cell, "KE")
    assert (caught.value.code, caught.value.message) == ("excel_notation", EXCEL_NOTATION)


def test_a_very_long_input_is_refused_before_it_costs_anything() -> None:
    with pytest.raises(InvalidPhone):
        read_phone("+" + "1" * 1_000_000)


@pytest.mark.parametrize("region", ["ZZ", "", "Kenya"])
def test_a_region_that_does_not_exist_reads_nothing(region: str) -> None:
    with pytest.raises(InvalidPhone):
        read_phone("0712345678", region)


def test_the_region_of_a_number_is_known_or_none() -> None:
    assert region_of(ME) == "KE"
    assert region_of("20880") is None
    assert region_of("+80012345678") is None


@pytest.mark.parametrize("phone", [ME, "+12025550123", "20880", "MTN", ""])
def test_a_masked_number_does_not_hold_the_number(phone: str) -> None:
    masked = mask_phone(phone)
    assert len(masked) <= 9
    assert not phone or phone not in masked


def test_a_masked_number_shows_its_ends() -> None:
    assert mask_phone(ME) == "+2547…678"


def by_the_library(number: str) -> PhoneNumber | None:
    """The number as libphonenumber alone reads it; None where it is not plainly valid."""
    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed):
        return None
    region = phonenumbers.region_code_for_number(parsed)
    return PhoneNumber(phonenumbers.format_number(parsed, PhoneNumberFormat.E164), None, region)


def assert_agrees(number: str) -> bool:
    region = region_if_plainly_valid(number)
    if region is not None:
        assert by_the_library(number) == PhoneNumber(number, None, region)
    return region is not None


def test_the_fast_path_agrees_with_the_library_in_every_country() -> None:
    chance = random.Random(7)
    hits = 0
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        metadata = PhoneMetadata.metadata_for_region(regions[0])
        lengths = metadata.general_desc.possible_length if metadata and metadata.general_desc else (9, 10)
        example = (metadata and metadata.mobile and metadata.mobile.example_number) or "7"
        for _ in range(60):
            begun = example[: chance.randrange(len(example))]
            wanted = chance.choice(lengths) + chance.choice((0, 0, 0, 1, -1))
            digits = begun + "".join(chance.choices("0123456789", k=max(0, wanted - len(begun))))
            hits += assert_agrees(f"+{code}{digits}")
    assert hits > 3_000


def test_the_fast_path_leaves_a_number_that_may_hold_a_prefix_to_the_library() -> None:
    # Valid as it stands, but libphonenumber takes the 8 for the prefix dialled inside Belarus.
    assert region_if_plainly_valid("+3758104542890") is None
    assert read_phone("+3758104542890").e164 == "+375104542890"


@pytest.mark.parametrize("code", ["254", "255", "256", "234", "250", "265", "27", "225", "251", "233", "260"])
def test_the_fast_path_takes_the_mobile_numbers_of_its_markets(code: str) -> None:
    metadata = PhoneMetadata.metadata_for_region(COUNTRY_CODE_TO_REGION_CODE[int(code)][0])
    assert metadata is not None
    assert metadata.mobile is not None
    assert assert_agrees(f"+{code}{metadata.mobile.example_number}")


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"\+[1-9][0-9]{3,15}", fullmatch=True) | st.text(max_size=20))
def test_the_fast_path_never_disagrees_with_the_library(number: str) -> None:
    assert_agrees(number)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=45), st.sampled_from([None, "KE", "US"]))
def test_any_text_is_a_number_or_an_invalid_phone(text: str, region: str | None) -> None:
    try:
        number = read_phone(text, region)
    except InvalidPhone:
        return
    assert require_e164(number.e164).e164 == number.e164
