"""Whole messages that mean something of their own, before anything else looks at them.

A stop word said again and again, with a polite word or with what is to stop, is a STOP: `please stop`, `STOP SMS`. A
text that holds a stop word and more (`stop it`, `don't stop`) may be one: a person has to read it.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from utils.setting_types import REPOSITORY
from utils.settings import Settings
from utils.settings_model import AUTO

WORDS_FILE = REPOSITORY / "data" / "keywords.toml"
MESSAGE = "message"
STOP = "stop"
START = "start"
HELP = "help"
JOIN = "join"
POSSIBLE_OPT_OUT = "possible_opt_out"
# In this order: where a setting makes one word mean two things, the careful meaning counts.
MEANINGS = (STOP, START, HELP, JOIN)
# A longer text is no keyword, and only its beginning is looked at.
LONGEST_TEXT = 1600
LONGEST_PHRASE = 4
FALLBACK_LANGUAGE = "english"
TATWEEL = "\u0640"
_NOT_OF_A_WORD = re.compile("[^a-z0-9]+")


class Keyword(NamedTuple):
    """`meaning`: stop, start, help, join, possible_opt_out or message. `language`: a table of the data file; None for
    a word of a setting."""

    meaning: str
    language: str | None = None


@dataclass(frozen=True, slots=True)
class _File:
    words: Mapping[str, Keyword]
    # The languages of each.
    stops: Mapping[str, frozenset[str]]
    beside: Mapping[str, frozenset[str]]
    replies: Mapping[tuple[str, str], str]


def read_keyword(text: str, settings: Settings) -> Keyword:
    """What the whole text means: `HELP 12345` is a message."""
    folded = fold(text[:LONGEST_TEXT])
    if len(text) <= LONGEST_TEXT:
        own = {
            STOP: settings.stop_words,
            START: settings.start_words,
            HELP: settings.help_words,
            JOIN: settings.join_words,
        }
        for meaning in MEANINGS:
            if folded and folded in _folded(own[meaning]):
                return Keyword(meaning)
        known = _words_file().words.get(folded)
        if known is not None:
            return known
    return _among_other_words(folded.split(), settings.stop_words, is_whole=len(text) <= LONGEST_TEXT)


def reply_to(keyword: Keyword, settings: Settings) -> str:
    """The text that confirms or helps; empty where the operator wants none."""
    by_meaning = {
        STOP: settings.stop_reply,
        START: settings.start_reply,
        HELP: settings.help_reply,
        JOIN: settings.join_reply,
    }
    wanted = by_meaning[keyword.meaning]
    if wanted != AUTO:
        return wanted
    replies = _words_file().replies
    language = keyword.language or FALLBACK_LANGUAGE
    return replies.get((language, keyword.meaning)) or replies[(FALLBACK_LANGUAGE, keyword.meaning)]


def fold(text: str) -> str:
    """Its words alone, in one spelling: without case, accents, quotes, dots, emoji and invisible marks."""
    if text.isascii():  # the same, fifty times as quickly
        return _NOT_OF_A_WORD.sub(" ", text.lower()).strip()
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    # A second time, for casefold may compose and decompose again (`İ`).
    kept = [_as_part(letter) for letter in unicodedata.normalize("NFKD", decomposed)]
    return " ".join("".join(kept).split())


def _as_part(letter: str) -> str:
    category = unicodedata.category(letter)
    if category[0] == "M" or category == "Cf" or letter == TATWEEL:
        return ""
    return letter if category[0] in "LN" else " "


def _among_other_words(words: Sequence[str], own_stops: tuple[str, ...], *, is_whole: bool) -> Keyword:
    """A STOP said again, or politely, is one; with other words beside it a person has to look."""
    file, own = _words_file(), _folded(own_stops)
    stops: list[str] = []
    beside: list[str] = []
    place = 0
    while place < len(words):
        phrase = next((one for one in _phrases(words, place) if one in file.stops or one in own), None)
        known = phrase or next((one for one in _phrases(words, place) if one in file.beside), None)
        if phrase is not None:
            stops.append(phrase)
        elif known is not None:
            beside.append(known)
        else:
            is_whole = False
        place += known.count(" ") + 1 if known else 1
    if not any(len(one) > 1 and not one.isdigit() for one in stops):
        return Keyword(MESSAGE)
    if is_whole and _may_stand_together(file, stops, beside):
        return file.words.get(stops[0], Keyword(STOP))
    return Keyword(POSSIBLE_OPT_OUT)


def _phrases(words: Sequence[str], place: int) -> Iterator[str]:
    """What begins at this word, the longest first."""
    for end in range(min(place + LONGEST_PHRASE, len(words)), place, -1):
        yield " ".join(words[place:end])


def _may_stand_together(file: _File, stops: Iterable[str], beside: Iterable[str]) -> bool:
    """Our texts say STOP in every language, and English is polite everywhere."""
    spoken = frozenset().union(*(file.stops.get(one, {FALLBACK_LANGUAGE}) for one in stops))
    return FALLBACK_LANGUAGE in spoken or all(
        file.beside[one] & (spoken | {FALLBACK_LANGUAGE}) for one in beside
    )


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
    stops, beside = _languages_of(languages, STOP), _languages_of(languages, "beside")
    replies = {
        (language, meaning): table[f"{meaning}_reply"]
        for language, table in languages.items()
        for meaning in MEANINGS
        if f"{meaning}_reply" in table
    }
    return _File(words, stops, beside, replies)


def _languages_of(languages: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for language, table in languages.items():
        for word in map(fold, table.get(name, ())):
            found[word] = found.get(word, frozenset()) | {language}
    return found
