"""Passwords of operators: hashed with scrypt, about a tenth of a second each, so only a login asks."""

from __future__ import annotations

import hmac
from functools import cache

from werkzeug.security import check_password_hash, generate_password_hash

from utils.errors import InvalidInput

SHORTEST = 12
LONGEST = 200
METHOD = "scrypt:32768:8:1"
SALT_CHARACTERS = 16


def hash_password(password: str) -> str:
    """Raises InvalidInput."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidInput(
            f"A password has between {SHORTEST} and {LONGEST} characters",
            code="invalid_password",
            field="password",
        )
    return generate_password_hash(password, METHOD, SALT_CHARACTERS)


def is_password(password: str, hashed: str | None) -> bool:
    return check_password_hash(hashed or _nobodys(), password[:LONGEST]) and hashed is not None


@cache
def _nobodys() -> str:
    """Of a password that nobody has: an unknown name takes as long as a known one. Not at import, for commands."""
    return generate_password_hash("nobody", METHOD, SALT_CHARACTERS)


def is_same(given: str, known: str) -> bool:
    """For a password that stands in the settings."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), known.encode())
