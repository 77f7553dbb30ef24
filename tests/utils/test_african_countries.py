from __future__ import annotations

import phonenumbers

from utils.african_countries import AFRICAN_COUNTRIES, country_name
from utils.phone_metadata import has_african_calling_code

# Ascension and Tristan da Cunha belong to Saint Helena; Diego Garcia is a base in the Indian Ocean.
NOT_LISTED = {"AC", "TA", "IO"}


def test_every_region_with_an_african_calling_code_can_be_chosen() -> None:
    codes = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items()
    there = {region for code, regions in codes if has_african_calling_code(str(code)) for region in regions}
    assert set(AFRICAN_COUNTRIES) == there - NOT_LISTED


def test_the_list_goes_by_name() -> None:
    plain = [
        name.replace("é", "e").replace("ã", "a").replace("ô", "o") for name in AFRICAN_COUNTRIES.values()
    ]
    assert plain == sorted(plain)
    assert (country_name("KE"), country_name("IN")) == ("Kenya", "IN")
