"""Several answers of AT as the one answer that a caller of a single function expects."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

_PROSE = re.compile(
    r"Sent to (\d+)/(\d+)(?: Total Cost: (?:([A-Z]{3}) )?(-?\d+(?:\.\d+)?))?(?: Message parts: \d+)?"
)

Raw = dict[str, Any]


def merge_answers(answers: Sequence[Raw]) -> Raw:
    """One answer in AT's shape. A single one stays as it came; of several the recipients are strung together.

    `Missing`, our own key, holds the numbers that some answer left out, where there are any.
    """
    if len(answers) == 1:
        return answers[0]
    contents = [answer.get("SMSMessageData") or {} for answer in answers]
    recipients = [entry for content in contents for entry in content.get("Recipients") or ()]
    prose = _merge_prose([str(content.get("Message") or "") for content in contents])
    merged: Raw = {"SMSMessageData": {"Message": prose, "Recipients": recipients}}
    missing = [number for answer in answers for number in answer.get("Missing", ())]
    return merged | ({"Missing": missing} if missing else {})


def _merge_prose(sentences: Sequence[str]) -> str:
    # Totals are in the account's currency, which is one; where they are not, nothing is added up.
    found = [_PROSE.fullmatch(sentence) for sentence in sentences]
    matches = [match for match in found if match is not None]
    currencies = {match[3] for match in matches if match[4] is not None and Decimal(match[4])}
    if len(matches) < len(sentences) or len(currencies) > 1:
        return "; ".join(filter(None, sentences))
    counts = f"Sent to {sum(int(match[1]) for match in matches)}/{sum(int(match[2]) for match in matches)}"
    costs = [Decimal(match[4]) for match in matches if match[4] is not None]
    if not costs:
        return counts
    return " ".join(filter(None, (counts, "Total Cost:", *currencies, str(sum(costs)))))
