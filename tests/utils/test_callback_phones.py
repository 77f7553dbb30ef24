from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.callback_phones import mask_digits, read_callback_phone

DIGITS = st.from_regex(r"[1-9][0-9]{5,15}", fullmatch=True)
KENYAN = st.from_regex(r"254(7|1)[0-9]{8}", fullmatch=True)


@given(digits=DIGITS | KENYAN, region=st.sampled_from([None, "KE", "US"]))
def test_a_number_as_at_writes_it_reads_as_any_other_spelling_of_it(digits: str, region: str | None) -> None:
    plain = read_callback_phone(f"+{digits}", region)
    assert (
        plain == read_callback_phone(f" +{digits}", region) == read_callback_phone(f"tel:+{digits}", region)
    )


@pytest.mark.parametrize("written", ["+254711000777", "254711000777", "00254711000777", "+254 711 000 777"])
def test_the_country_code_is_looked_for_first(written: str) -> None:
    assert read_callback_phone(written) == ("+254711000777",)


@pytest.mark.parametrize("written", ["20880", "MTN", "", "+", "+0", "+254711000777x"])
def test_what_is_no_number_has_no_reading(written: str) -> None:
    assert read_callback_phone(written) == ()


@pytest.mark.parametrize(
    "written",
    [
        "phoneNumber=%2B254711000777",
        "phoneNumber=0711+000+777",
        "phoneNumber=2547%26110%26007%2677",
        "phoneNumber=%252B254711000777",
        '{"phoneNumber": "\\u0030711000777"}',
        "phoneNumber=٠٧١١٠٠٠٧٧٧",
    ],
)
def test_a_masked_body_holds_no_number_and_keeps_its_words(written: str) -> None:
    masked = mask_digits(f"status=Failed&networkCode=63902&{written}")
    assert masked.startswith("status=Failed&networkCode=63902&")
    assert not any(one.isdigit() for one in masked.partition("63902")[2])
