"""Names of keys and operators: they stand in lists, logs and commands."""

from __future__ import annotations

import re

from utils.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?")


def require_name(name: str) -> None:
    """Raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "A name has up to 40 of a-z, 0-9, dot, dash, underscore, and begins and ends with a letter or digit",
            code="invalid_name",
            field="name",
        )
