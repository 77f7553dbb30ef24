"""`reference`: the caller's own id of a message, kept as it came and never sent."""

from __future__ import annotations

from utils.errors import InvalidInput
from utils.texts import is_text

LONGEST_REFERENCE = 100


def read_reference(typed: str | None) -> str | None:
    """Without the spaces round it; None where nothing is left. Raises InvalidInput (invalid_reference)."""
    reference = (typed or "").strip()
    if not reference:
        return None
    if len(reference) > LONGEST_REFERENCE:
        raise InvalidInput(
            f"A reference has at most {LONGEST_REFERENCE} characters, this one has {len(reference)}",
            code="invalid_reference",
            field="reference",
        )
    if not is_text(reference) or not reference.isprintable():
        raise InvalidInput(
            "A reference holds no line breaks and no control characters",
            code="invalid_reference",
            field="reference",
        )
    return reference
