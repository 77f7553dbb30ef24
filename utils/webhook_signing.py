"""Signatures as the Standard Webhooks specification 1.0 has them, so that its published libraries verify ours.

Signed is `id.timestamp.body` with HMAC-SHA256; a header carries one `v1,<base64>` per secret, which lets the
receiver change secrets without losing an event. A secret is `whsec_` and the base64 of 24 to 64 bytes.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"
FEWEST_BYTES, MOST_BYTES = 24, 64
WANTED = f"{PREFIX} and the base64 of {FEWEST_BYTES} to {MOST_BYTES} random bytes"


def read_secret(secret: str) -> bytes:
    """The key of a written secret; prefix and padding may be absent. Raises ValueError, which does not repeat it."""
    encoded = secret.removeprefix(PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        raise ValueError(WANTED) from None
    if not FEWEST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(WANTED)
    return key


def signature_headers(
    secrets: Sequence[str], event_id: str, timestamp: int, body: bytes
) -> Mapping[str, str]:
    """`timestamp`: seconds since 1970 of this attempt; receivers refuse what is older than minutes."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_sign(read_secret(secret), signed) for secret in secrets),
    }


def _sign(key: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
