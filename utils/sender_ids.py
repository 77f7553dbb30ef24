"""Sender ids: what a valid one is, and one spelling for comparing two of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from utils.errors import InvalidInput
from utils.setting_types import SENDER_PATTERN
from utils.settings_model import DEFAULT_SENDER

LONGEST_SENDER_ID = 32
PROMOTIONAL = "promotional"


def sender_key(sender_id: str | None) -> str:
    """One spelling per sender: networks change the case, forms lose the plus. None is AT's default sender."""
    # Upper case may be longer (ß is SS), and a store takes no more than the longest sender id.
    return (sender_id or DEFAULT_SENDER).strip().lstrip("+").upper()[:LONGEST_SENDER_ID]


def promotional_senders(classes: Mapping[str, str]) -> frozenset[str]:
    """Of SENDER_CLASSES, as `sender_key` spells them."""
    return frozenset(sender_key(name) for name, its in classes.items() if its == PROMOTIONAL)


def validate_sender(sender_id: str | None) -> None:
    if sender_id is not None and not re.fullmatch(SENDER_PATTERN, sender_id):
        raise InvalidInput(
            "A sender id is a shortcode, a number, or a name of at most 15 characters",
            code="invalid_sender_id",
            field="sender_id",
        )
