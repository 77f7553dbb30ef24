from typing import Any

import pytest

from utils.answer_merging import merge_answers


def answer(prose: str, *numbers: str) -> dict[str, Any]:
    return {"SMSMessageData": {"Message": prose, "Recipients": [{"number": number} for number in numbers]}}


def test_a_single_answer_stays_as_it_came() -> None:
    only = answer("Sent to 1/1", "+1") | {"new": 1}
    assert merge_answers([only]) is only


def test_recipients_are_strung_together_in_order() -> None:
    merged = merge_answers([answer("", "+1", "+2"), answer("", "+3")])
    assert [entry["number"] for entry in merged["SMSMessageData"]["Recipients"]] == ["+1", "+2", "+3"]


@pytest.mark.parametrize(
    ("sentences", "merged"),
    [
        (
            ["Sent to 2/2 Total Cost: KES 1.6000", "Sent to 1/2 Total Cost: KES 0.8000"],
            "Sent to 3/4 Total Cost: KES 2.4000",
        ),
        (["Sent to 1/1 Total Cost: USD 0.0079 Message parts: 1"] * 2, "Sent to 2/2 Total Cost: USD 0.0158"),
        (
            ["Sent to 1/1 Total Cost: KES 0.8000", "Sent to 0/1 Total Cost: 0"],
            "Sent to 1/2 Total Cost: KES 0.8000",
        ),
        (["Sent to 0/1 Total Cost: 0", "Sent to 0/1 Total Cost: 0"], "Sent to 0/2 Total Cost: 0"),
        (["Sent to 1/1", "Sent to 1/1"], "Sent to 2/2"),
        (
            ["Sent to 1/1 Total Cost: KES 1", "Sent to 1/1 Total Cost: USD 1"],
            "Sent to 1/1 Total Cost: KES 1; Sent to 1/1 Total Cost: USD 1",
        ),
        (
            ["Sent to 1/1 Total Cost: KES 1", "InvalidSenderId"],
            "Sent to 1/1 Total Cost: KES 1; InvalidSenderId",
        ),
        (["", ""], ""),
    ],
)
def test_totals_are_added_up_only_where_they_add_up(sentences: list[str], merged: str) -> None:
    found = merge_answers([answer(sentence) for sentence in sentences])
    assert found["SMSMessageData"]["Message"] == merged


def test_the_missing_of_all_answers_are_named() -> None:
    merged = merge_answers([answer("") | {"Missing": ["+1"]}, answer(""), answer("") | {"Missing": ["+2"]}])
    assert merged["Missing"] == ["+1", "+2"]
    assert "Missing" not in merge_answers([answer(""), answer("")])
