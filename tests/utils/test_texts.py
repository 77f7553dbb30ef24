from __future__ import annotations

import pytest

from utils.errors import EmptyMessage, InvalidInput
from utils.segments import measure
from utils.sender_ids import validate_sender
from utils.sms_utils import send_bulk_sms
from utils.texts import compose, is_blank


def test_an_accent_apart_from_its_letter_costs_nothing() -> None:
    text = compose("cafe\u0301 " * 20)
    assert (text, measure(text).encoding, measure(text).parts) == ("café " * 20, "GSM-7", 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\u200b",
        " \u00a0\u2003",
        "\u202a\u202c\ufeff",
        "\ufe0f\u200d",
        "\u3164",
        "\u2800\u034f",
        "\n\t\x07",
    ],
)
def test_what_nobody_sees_is_empty(text: str) -> None:
    assert is_blank(text)
    with pytest.raises(EmptyMessage):
        send_bulk_sms(text, ["+254711000001"])


@pytest.mark.parametrize("text", [".", "\u200b.\u200b", "\u0301", "👩\u200d👧", "\u0627\u200c"])
def test_what_is_seen_is_a_text(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize("sender", ["O'Brien", "+254711082000", "20880", "A & B", "Zoé", "M_Pesa.1-2"])
def test_a_sender_id_that_may_be_set_may_be_asked_for(sender: str) -> None:
    validate_sender(sender)


@pytest.mark.parametrize("sender", ["", " x", "'x", "++254", "a" * 17, "a\n", "a\0"])
def test_what_is_no_sender_id_is_refused(sender: str) -> None:
    with pytest.raises(InvalidInput):
        validate_sender(sender)
