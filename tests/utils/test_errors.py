import inspect
import re

import pytest

from utils import errors
from utils.errors import (
    EmptyMessage,
    InvalidInput,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ServiceError,
)

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def drawn_tree() -> dict[str, str]:
    """Each class of the docstring's drawing, with the class it stands under."""
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"( {4,})([A-Z]\w+)", line)
        if not found:
            continue
        path = [step for step in path if step[0] < len(found[1])]
        parents[found[2]] = path[-1][1] if path else "Exception"
        path.append((len(found[1]), found[2]))
    return parents


def test_the_drawing_is_the_tree() -> None:
    assert drawn_tree() == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES)
def test_the_drawing_names_every_code(kind: type[ServiceError]) -> None:
    assert kind.code in (errors.__doc__ or "") or kind.code in {
        "service_error",
        "invalid_input",
        "provider_error",
    }


def test_bad_input_is_a_value_error_with_word_sentence_and_field() -> None:
    error = EmptyMessage(field="text")
    assert isinstance(error, InvalidInput | ValueError)
    assert (error.code, str(error), error.field, error.details) == (
        "empty_message",
        "Message cannot be empty",
        "text",
        {},
    )


def test_a_sentence_and_a_code_may_be_given() -> None:
    error = InvalidInput("Too long", code="too_long", details={"most": 5})
    assert (error.message, error.code, error.details) == ("Too long", "too_long", {"most": 5})
    assert InvalidInput.code == "invalid_input"


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if issubclass(kind, ProviderError)])
def test_nothing_of_unknown_outcome_is_called_retryable(kind: type[ProviderError]) -> None:
    assert kind.outcome == "not_sent" or not kind.retryable


def test_an_error_names_those_it_concerns() -> None:
    refused, lost = ProviderRefused(reason="http_400"), OutcomeUnknown(reason="timed_out")
    refused.concerns(["+1"])
    lost.concerns(["+2"])
    assert (refused.not_sent, refused.unknown) == (["+1"], [])
    assert (lost.not_sent, lost.unknown) == ([], ["+2"])
