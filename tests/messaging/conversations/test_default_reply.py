import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.conversations.default_reply import reply_to
from utils.segments import measure

TEMPLATE = 'This is a response to: "{text}"'


def test_a_short_text_is_quoted_whole() -> None:
    assert reply_to(TEMPLATE, "hello") == 'This is a response to: "hello"'


def test_a_long_text_is_cut_and_the_end_of_the_template_stays() -> None:
    reply = reply_to(TEMPLATE, "a" * 500)
    assert reply.endswith('aaa..."')
    assert len(reply) == 160


def test_a_text_in_another_script_is_cut_to_seventy_characters() -> None:
    reply = reply_to(TEMPLATE, "ሰላም " * 60)
    assert measure(reply).parts == 1
    assert reply.endswith('..."')


def test_the_mark_of_a_cut_does_not_make_a_reply_expensive() -> None:
    assert measure(reply_to(TEMPLATE, "a" * 500)).encoding == "GSM-7"


def test_braces_of_the_text_and_of_the_template_are_only_characters() -> None:
    assert (
        reply_to("{text} {0} {name!r} {{}}", "{text.__class__} %s") == "{text.__class__} %s {0} {name!r} {{}}"
    )


def test_a_text_that_names_the_placeholder_is_not_filled_again() -> None:
    assert reply_to("<{text}>", "{text}") == "<{text}>"


def test_every_placeholder_is_filled() -> None:
    assert reply_to("{text}, {text}", "x") == "x, x"


def test_a_template_without_placeholder_is_sent_as_it_is() -> None:
    assert reply_to("We are closed. " * 20, "x") == "We are closed. " * 20


def test_a_template_that_is_too_long_by_itself_quotes_nothing() -> None:
    template = "b" * 170 + "{text}"
    assert reply_to(template, "hello") == "b" * 170


@pytest.mark.parametrize("padding", range(40, 50))
def test_what_a_person_sees_as_one_character_is_not_split(padding: int) -> None:
    family = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"
    reply = reply_to("{text}", "é" * padding + family * 9)
    kept = reply.removesuffix("...").removeprefix("é" * padding)
    assert kept == family * (len(kept) // len(family))
    assert measure(reply).parts == 1


@given(st.text(max_size=400), st.text(max_size=30), st.text(max_size=30))
def test_a_quoting_reply_is_one_part_whatever_it_quotes(text: str, before: str, after: str) -> None:
    template = before.replace("{", "") + "{text}" + after.replace("{", "")
    reply = reply_to(template, text)
    assert measure(reply).parts <= 1 or measure(template.replace("{text}", "...")).parts > 1
