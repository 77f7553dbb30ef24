"""What a developer adds in `replies.py`: functions that answer texts.

    from messaging.reply_handlers import Inbound, on_keyword, on_message

    @on_keyword("BAL", "BALANCE")
    def balance(message: Inbound) -> str:
        return f"Your balance is {look_up(message.sender)}."

    @on_message
    def otherwise(message: Inbound) -> str | None: ...

A keyword is the first word of a text, whole, in any case. Texts that no keyword takes go to the `on_message`
functions, in order, until one answers. A handler returns a text, a list of texts, or None for no answer. It
runs in the worker and is tried again where it raises, so what else it does may happen twice: `message.id`
is the same each time. Its texts are sent once.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
import unicodedata
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar, cast

from utils.errors import ServiceError
from utils.setting_types import LONGEST_REPLY, REPOSITORY
from utils.settings import Settings
from utils.texts import is_text

DEFAULT_FILE = REPOSITORY / "replies.py"
MODULE_NAME = "replies"
MOST_TEXTS = 10
# What people put behind a keyword: `BAL, 7`, `BAL: 7`, `BAL?`. Some phones add marks of direction.
_BETWEEN = ",;:.?!\u060c\u061b\u061f\u1362\u1363"
_QUOTES = "\"'\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e"


@dataclass(frozen=True, slots=True)
class Inbound:
    """A text that somebody sent. `sender` is E.164; `recipient` the number of ours that it came to.

    `keyword` is the handler's own spelling of the first word, and `rest` what follows it; without a keyword
    they are None and the whole text. `id` is ours and the same at every try.
    """

    id: int
    sender: str
    recipient: str
    text: str
    keyword: str | None
    rest: str
    received_at: datetime
    link_id: str | None = None
    network: str | None = None


Answer = str | list[str] | tuple[str, ...] | None
Handler = Callable[[Inbound], Answer]
Function = TypeVar("Function", bound=Callable[..., Any])


class RepliesError(ServiceError):
    """What is wrong in the file of reply handlers: file, line and what."""

    code = "invalid_replies"


class WrongAnswer(TypeError):
    """A handler returned what cannot be sent."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """The functions of one file. `by_keyword`: the folded word to the handler's spelling and its function."""

    by_keyword: Mapping[str, tuple[str, Handler]] = field(default_factory=lambda: MappingProxyType({}))
    for_others: tuple[Handler, ...] = ()

    def want(self, text: str) -> bool:
        return bool(self.for_others) or _fold(first_word(text)[0]) in self.by_keyword

    def read(self, text: str) -> tuple[str | None, str]:
        """The keyword in its handler's spelling, and what follows it."""
        word, rest = first_word(text)
        found = self.by_keyword.get(_fold(word))
        return (None, text) if found is None else (found[0], rest)

    def answer(self, message: Inbound) -> tuple[str, ...]:
        """Raises WrongAnswer, and whatever the handler raises."""
        if message.keyword is not None:
            return _texts(self.by_keyword[_fold(message.keyword)][1](message))
        answers = (_texts(handler(message)) for handler in self.for_others)
        return next((texts for texts in answers if texts), ())


class Attempt:
    """As a context manager it keeps whatever is raised within: a developer's code may raise anything."""

    error: BaseException | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        self.error = error
        return True


@dataclass(slots=True)
class _Collector:
    by_keyword: dict[str, tuple[str, Handler]] = field(default_factory=dict)
    for_others: list[Handler] = field(default_factory=list)


# The file that is being loaded; elsewhere, as in a test that imports it, the decorators only decorate.
_loading: ContextVar[_Collector | None] = ContextVar("loading", default=None)


def on_keyword(*words: str) -> Callable[[Function], Function]:
    """The function answers texts that begin with one of `words`. Raises RepliesError at the start."""
    if not words or not all(isinstance(word, str) for word in words):
        raise RepliesError('on_keyword needs its words: @on_keyword("BAL", "BALANCE")')
    wrong = [word for word in words if first_word(word) != (word, "")]
    if wrong:
        raise RepliesError(f"a keyword is one word, not {wrong[0]!r}")

    def register(function: Function) -> Function:
        _check_function(function)
        collector = _loading.get()
        for word in words if collector is not None else ():
            _add(cast(_Collector, collector), word, function)
        return function

    return register


def on_message(function: Function) -> Function:
    """The function answers texts that no keyword takes. Raises RepliesError at the start."""
    _check_function(function)
    collector = _loading.get()
    if collector is not None:
        collector.for_others.append(function)
    return function


def _check_function(function: Any) -> None:
    if not callable(function):
        raise RepliesError("@on_keyword(…) and @on_message stand above a function")
    if iscoroutinefunction(function) or isgeneratorfunction(function) or isasyncgenfunction(function):
        raise RepliesError(f"{_name(function)} has to return its answer: no async, no yield")


def _add(collector: _Collector, word: str, function: Handler) -> None:
    taken = collector.by_keyword.setdefault(_fold(word), (word, function))
    if taken[1] is not function:
        raise RepliesError(f"the keyword {word!r} is taken already, by {_name(taken[1])}")


def first_word(text: str) -> tuple[str, str]:
    """The first word and what follows it. Hyphens and apostrophes within a word belong to it."""
    start = next((at for at, letter in enumerate(text) if _is_of_word(letter)), len(text))
    end = start
    while end < len(text) and (_is_of_word(text[end]) or _joins(text, end)):
        end += 1
    # Copied from the advice to send "BAL".
    is_quoted = text[max(0, start - 1) : start] in tuple(_QUOTES) and text[end : end + 1] in tuple(_QUOTES)
    return text[start:end], _strip(text[end + is_quoted :])


def _strip(rest: str) -> str:
    start = next((at for at, letter in enumerate(rest) if not _is_between(letter)), len(rest))
    end = len(rest)
    while end > start and (rest[end - 1].isspace() or _is_invisible(rest[end - 1])):
        end -= 1
    return rest[start:end]


def _is_between(letter: str) -> bool:
    return letter.isspace() or letter in _BETWEEN or _is_invisible(letter)


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) == "Cf"


def _is_of_word(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN" or letter == "_"


def _joins(text: str, at: int) -> bool:
    is_inside = text[at] in "-'\u2019" or _is_invisible(text[at])
    return is_inside and at + 1 < len(text) and _is_of_word(text[at + 1])


def _fold(word: str) -> str:
    """In one case and form, without what nobody sees."""
    visible = "".join(letter for letter in word if not _is_invisible(letter))
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())


def _texts(answer: Answer) -> tuple[str, ...]:
    texts = (answer,) if isinstance(answer, str) else () if answer is None else answer
    if not isinstance(texts, (list, tuple)):
        raise WrongAnswer(f"a handler returns a text, a list of texts or None, not {type(answer).__name__}")
    wrong = [type(one).__name__ for one in texts if not isinstance(one, str)]
    if wrong:
        raise WrongAnswer(f"a handler's list holds texts, not {wrong[0]}")
    wanted = tuple(one for one in texts if one.strip())
    if len(wanted) > MOST_TEXTS or any(len(one) > LONGEST_REPLY for one in wanted):
        raise WrongAnswer(f"at most {MOST_TEXTS} texts of at most {LONGEST_REPLY} characters can be sent")
    if not all(map(is_text, wanted)):
        raise WrongAnswer("a text holds a character that no phone can show")
    return wanted


@cache
def handlers_in(path: Path) -> Handlers:
    """Loads the file, once. Raises RepliesError. Without the file at the root there are no handlers."""
    if not path.exists() and path == DEFAULT_FILE:
        return Handlers()
    collector = _Collector()
    token = _loading.set(collector)
    try:
        with Attempt() as attempt:
            _run(path)
    finally:
        _loading.reset(token)
    if attempt.error is not None:
        raise RepliesError(f"{path.name} cannot be used: {explain(attempt.error, path)}") from attempt.error
    return Handlers(MappingProxyType(collector.by_keyword), tuple(collector.for_others))


def require_handlers(settings: Settings) -> Handlers:
    """For a start, which a file that cannot be used stops. Raises RepliesError."""
    return handlers_in(Path(settings.replies_file))


def _run(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise RepliesError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and annotations look their module up.
    sys.modules[MODULE_NAME] = module
    spec.loader.exec_module(module)


def explain(error: BaseException, path: Path) -> str:
    """Kind, words and the last line of the file that had a part in it."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    said = words if isinstance(error, RepliesError) else f"{type(error).__name__}: {words}".rstrip(": ")
    return said if line is None else f"line {line}: {said}"


def _name(function: Handler) -> str:
    return getattr(function, "__name__", "another function")
