from __future__ import annotations

import pytest

from utils.errors import InvalidInput
from utils.references import read_reference


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        (" visit-7 ", "visit-7"),
        ("ziara ya 7", "ziara ya 7"),
        ("é" * 100, "é" * 100),
    ],
)
def test_a_reference_is_kept_without_the_spaces_round_it(typed: str | None, read: str | None) -> None:
    assert read_reference(typed) == read


@pytest.mark.parametrize("typed", ["a" * 101, "a\nb", "a\0b", "a\ud800b", "a\u200bb"])
def test_what_could_not_be_shown_or_found_again_is_refused(typed: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_reference(typed)
    assert (caught.value.code, caught.value.field) == ("invalid_reference", "reference")
