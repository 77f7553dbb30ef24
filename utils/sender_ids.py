"""Sender ids: what a valid one is, and one spelling for comparing two of them."""

from __future__ import annotations

import re

from utils.errors import InvalidInput
from utils.settings_model import DEFAULT_SENDER

LONGEST_SENDER_ID = 32
_SENDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._&-]{0,14}")


def sender_key(sender_id: str | None) -> str:
    """One spelling per sender: networks change the case, forms lose the plus. None is AT's default sender."""
    # Upper case may be longer (ß is SS), and a store takes no more than the longest sender id.
    return (sender_id or DEFAULT_SENDER).strip().lstrip("+").upper()[:LONGEST_SENDER_ID]


def validate_sender(sender_id: str | None) -> None:
    if sender_id is not None and not _SENDER.fullmatch(sender_id):
        raise InvalidInput(
            "A sender id is a shortcode, or up to 15 letters, digits and spaces",
            code="invalid_sender_id",
            field="sender_id",
        )
