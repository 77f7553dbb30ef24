"""Parts of a text, with smsutil as the oracle."""

import pytest
import smsutil  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.segments import BASIC, EXTENDED, Segments, gsm7_alternative, measure

GSM = "".join(sorted(BASIC | EXTENDED))


def by_the_oracle(text: str) -> tuple[str, int]:
    split = smsutil.split(text)
    return ("GSM-7" if split.encoding == "gsm0338" else "UCS-2"), len(split.parts)


# smsutil takes a bare escape for a character of the alphabet, and an empty text for one part.
texts = st.one_of(
    st.text(GSM, min_size=1, max_size=500),
    st.text("ab{}€|~", min_size=150, max_size=480),
    st.text("a😀é", min_size=1, max_size=220),
    st.text(st.characters(exclude_characters="\x1b", exclude_categories=["Cs"]), min_size=1, max_size=300),
)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_encoding_and_parts_are_the_oracles(text: str) -> None:
    found = measure(text)
    assert (found.encoding, found.parts) == by_the_oracle(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Segments("GSM-7", 0, 0, None)),
        ("a" * 160, Segments("GSM-7", 1, 160, None)),
        ("a" * 161, Segments("GSM-7", 2, 161, None)),
        ("a" * 306, Segments("GSM-7", 2, 306, None)),
        ("a" * 307, Segments("GSM-7", 3, 307, None)),
        ("a" * 158 + "€", Segments("GSM-7", 1, 160, None)),
        ("a" * 159 + "€", Segments("GSM-7", 2, 161, None)),
        ("a" * 152 + "€" + "a" * 152, Segments("GSM-7", 3, 306, None)),
        ("’" * 70, Segments("UCS-2", 1, 70, "’")),
        ("a" * 70 + "’", Segments("UCS-2", 2, 71, "’")),
        ("😀" * 35, Segments("UCS-2", 1, 70, "😀")),
        ("😀" * 67, Segments("UCS-2", 3, 134, "😀")),
        ("x\ty", Segments("UCS-2", 1, 3, "\t")),
        ("\x1b", Segments("UCS-2", 1, 1, "\x1b")),
        ("\ud83d", Segments("UCS-2", 1, 1, "\ud83d")),
    ],
    ids=lambda value: f"{len(value)} characters" if isinstance(value, str) else "",
)
def test_limits_escapes_and_pairs(text: str, expected: Segments) -> None:
    assert measure(text) == expected


def test_the_alphabet_is_complete() -> None:
    assert len(BASIC) == 127  # 128 places, one of which is the escape
    assert len(EXTENDED) == 10
    assert not BASIC & EXTENDED


@pytest.mark.parametrize(
    ("character", "alternative"),
    [
        ("’", "'"),
        ("–", "-"),
        ("“", '"'),
        ("ê", "e"),
        ("ç", "c"),
        ("é", "é"),
        ("…", "..."),
        ("\u00a0", " "),
        ("ọ", "o"),
        ("ɗ", "d"),
        ("ﬁ", "fi"),
        ("Α", "A"),
        ("Ω", "Ω"),
        ("\u200b", ""),
        ("😀", None),
        ("ا", None),
        ("አ", None),
    ],
)
def test_a_character_has_the_alternative_that_looks_like_it(character: str, alternative: str | None) -> None:
    assert gsm7_alternative(character) == alternative


@settings(max_examples=300, deadline=None)
@given(st.characters())
def test_an_alternative_is_always_gsm_7(character: str) -> None:
    alternative = gsm7_alternative(character)
    assert alternative is None or measure(alternative).encoding == "GSM-7"
