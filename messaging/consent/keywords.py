"""Whole messages that mean something of their own, before anything else looks at them."""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from utils.setting_types import REPOSITORY
from utils.settings import Settings

WORDS_FILE = REPOSITORY / "data" / "keywords.toml"
MESSAGE = "message"
STOP = "stop"
START = "start"
HELP = "help"
# In this order: where a setting makes one word mean two things, the careful meaning counts.
MEANINGS = (STOP, START, HELP)
# A longer text is no keyword, whatever stands around it: letters and digits; all characters.
MOST_LETTERS, LONGEST_TEXT = 64, 1600
FALLBACK_LANGUAGE = "english"
# What a setting says for "the reply of the data file".
AUTO = "auto"
TATWEEL = "\u0640"


class Keyword(NamedTuple):
    """`meaning`: stop, start, help or message. `language`: a table of the data file; None for a word of a setting."""

    meaning: str
    language: str | None = None


@dataclass(frozen=True, slots=True)
class _File:
    words: Mapping[str, Keyword]
    replies: Mapping[tuple[str, str], str]


def read_keyword(text: str, settings: Settings) -> Keyword:
    """What the whole text means: `STOP 12345` is a message."""
    if len(text) > LONGEST_TEXT or sum(map(str.isalnum, text)) > MOST_LETTERS:
        return Keyword(MESSAGE)
    folded = fold(text)
    own = {STOP: settings.stop_words, START: settings.start_words, HELP: settings.help_words}
    for meaning in MEANINGS:
        if folded and folded in _folded(own[meaning]):
            return Keyword(meaning)
    return _words_file().words.get(folded, Keyword(MESSAGE))


def reply_to(keyword: Keyword, settings: Settings) -> str:
    """The text that confirms or helps; empty where the operator wants none."""
    by_meaning = {STOP: settings.stop_reply, START: settings.start_reply, HELP: settings.help_reply}
    wanted = by_meaning[keyword.meaning]
    if wanted != AUTO:
        return wanted
    replies = _words_file().replies
    language = keyword.language or FALLBACK_LANGUAGE
    return replies.get((language, keyword.meaning)) or replies[(FALLBACK_LANGUAGE, keyword.meaning)]


def fold(text: str) -> str:
    """Its words alone, in one spelling: without case, accents, quotes, dots, emoji and invisible marks."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    # A second time, for casefold may compose and decompose again (`İ`).
    kept = [_as_part(letter) for letter in unicodedata.normalize("NFKD", decomposed)]
    return " ".join("".join(kept).split())


def _as_part(letter: str) -> str:
    category = unicodedata.category(letter)
    if category[0] == "M" or category == "Cf" or letter == TATWEEL:
        return ""
    return letter if category[0] in "LN" else " "


def _add(words: dict[str, Keyword], word: str, keyword: Keyword) -> None:
    """A word of two languages tells none; one of two meanings keeps the careful one, which came first."""
    taken = words.setdefault(word, keyword)
    if taken.meaning == keyword.meaning and taken.language != keyword.language:
        words[word] = Keyword(keyword.meaning)


@cache
def _folded(words: Iterable[str]) -> frozenset[str]:
    return frozenset(fold(word) for word in words)


@cache
def _words_file() -> _File:
    languages: dict[str, dict[str, Any]] = tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))
    words: dict[str, Keyword] = {}
    for meaning in MEANINGS:
        for language, table in languages.items():
            for word in table.get(meaning, ()):
                _add(words, fold(word), Keyword(meaning, language))
    replies = {
        (language, meaning): table[f"{meaning}_reply"]
        for language, table in languages.items()
        for meaning in MEANINGS
        if f"{meaning}_reply" in table
    }
    return _File(words, replies)
