"""Random tokens are kept as a plain hash: it cannot be searched backwards, and an index finds it."""

from __future__ import annotations

import hashlib


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
