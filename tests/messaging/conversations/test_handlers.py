from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from messaging.conversations.handlers import (
    DEFAULT_FILE,
    Handlers,
    Inbound,
    RepliesError,
    WrongAnswer,
    first_word,
    handlers_in,
    on_keyword,
    on_message,
)

IMPORTS = "from messaging.conversations.handlers import Inbound, on_keyword, on_message\n"


def load(folder: Path, text: str) -> Handlers:
    path = folder / "replies.py"
    path.write_text(IMPORTS + text)
    return handlers_in(path)


def asked(handlers: Handlers, text: str) -> tuple[str, ...]:
    keyword, rest = handlers.read(text)
    return handlers.answer(Inbound(1, "+254711000001", "20880", text, keyword, rest, datetime.now(UTC)))


@pytest.mark.parametrize(
    ("text", "word", "rest"),
    [
        ("BAL 7", "BAL", "7"),
        ("  bal,  7 8 ", "bal", "7 8"),
        ('"BAL"', "BAL", ""),
        ("\u201cBAL 7\u201d", "BAL", "7\u201d"),
        ('SAY "hi"', "SAY", '"hi"'),
        ("BAL?", "BAL", ""),
        ("bal! 7", "bal", "7"),
        ("BAL\u061f", "BAL", ""),
        ("\u200fBAL\u200f 7\u200f", "BAL", "7"),
        ("TEMP -5", "TEMP", "-5"),
        ("BAL\u00a07", "BAL", "7"),
        ("BAL-7 x", "BAL-7", "x"),
        ("don\u2019t go", "don\u2019t", "go"),
        ("bẹ̀rẹ̀ now", "bẹ̀rẹ̀", "now"),
        ("bal#12", "bal", "#12"),
        ("...", "", ""),
        ("", "", ""),
    ],
)
def test_the_first_word_and_what_follows_it(text: str, word: str, rest: str) -> None:
    assert first_word(text) == (word, rest)


@pytest.mark.parametrize(
    "text", ["BAL", "bal 7", "Balance", "ＢＡＬ", "«bal»", "B\u200bAL", "\u202abal\u202c"]
)
def test_a_keyword_is_a_whole_first_word_in_any_case(tmp_path: Path, text: str) -> None:
    handlers = load(
        tmp_path, '@on_keyword("BAL", "Balance")\ndef f(message: Inbound) -> str:\n    return "yes"\n'
    )
    assert handlers.want(text)
    assert asked(handlers, text) == ("yes",)


@pytest.mark.parametrize("text", ["BALL", "my bal", "", "b al"])
def test_what_is_no_keyword_is_not_taken(tmp_path: Path, text: str) -> None:
    handlers = load(tmp_path, '@on_keyword("BAL")\ndef f(message: Inbound) -> str:\n    return "yes"\n')
    assert not handlers.want(text)


def test_a_handler_sees_the_keyword_in_its_own_spelling_and_the_rest(tmp_path: Path) -> None:
    code = '@on_keyword("BAL")\ndef f(message: Inbound) -> str:\n    return f"{message.keyword}|{message.rest}"\n'
    assert asked(load(tmp_path, code), "bal: 7") == ("BAL|7",)


def test_on_message_functions_are_asked_in_order_until_one_answers(tmp_path: Path) -> None:
    code = """
@on_message
def first(message: Inbound) -> None: ...

@on_message
def second(message: Inbound) -> list[str]:
    return ["a", " ", "b"]

@on_message
def third(message: Inbound) -> str:
    raise AssertionError
"""
    assert asked(load(tmp_path, code), "anything") == ("a", "b")


@pytest.mark.parametrize(
    "answer", ["7", "[1]", '{"a"}', '"a" * 1601', '["a"] * 11', '"a\\0b"', '"\\ud83d"', "[None]", "b'a'"]
)
def test_what_cannot_be_sent_is_the_handler_s_error(tmp_path: Path, answer: str) -> None:
    handlers = load(tmp_path, f"@on_message\ndef f(message: Inbound):\n    return {answer}\n")
    with pytest.raises(WrongAnswer):
        asked(handlers, "x")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def f(:\n    pass\n", "replies.py cannot be used: line 2: SyntaxError: invalid syntax"),
        ("\nimport nothing_like_it\n", "line 3: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("raise KeyboardInterrupt", "line 2: KeyboardInterrupt"),
        ('@on_keyword("TWO WORDS")\ndef f(m): ...\n', "line 2: a keyword is one word, not 'TWO WORDS'"),
        ("@on_keyword\ndef f(m): ...\n", "line 2: on_keyword needs its words"),
        ("@on_message()\ndef f(m): ...\n", "line 2: "),
        (
            '@on_message("A")\ndef f(m): ...\n',
            "line 2: @on_keyword(…) and @on_message stand above a function",
        ),
        ('@on_keyword("A")\nasync def f(m): ...\n', "line 2: f has to return its answer: no async, no yield"),
        ('@on_message\ndef f(m):\n    yield "a"\n', "line 2: f has to return its answer"),
        (
            '@on_keyword("A")\ndef one(m): ...\n\n@on_keyword("a")\ndef two(m): ...\n',
            "line 5: the keyword 'a' is taken already, by one",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path: Path, code: str, sentence: str) -> None:
    with pytest.raises(RepliesError) as caught:
        load(tmp_path, code)
    assert sentence in caught.value.message


def test_a_file_that_is_not_there_is_an_error_unless_it_is_the_default_one(tmp_path: Path) -> None:
    with pytest.raises(RepliesError):
        handlers_in(tmp_path / "nowhere.py")


def test_the_example_at_the_root_can_be_used() -> None:
    handlers = handlers_in(DEFAULT_FILE)
    assert asked(handlers, "demo it works")[0].startswith("This answer comes from replies.py")
    assert not handlers.want("hello")


def test_outside_the_loading_the_decorators_only_decorate() -> None:
    def answer(_message: Inbound) -> str:
        return "a"

    assert on_keyword("BAL")(answer) is answer
    assert on_message(answer) is answer
