"""What each word in a `reason` means and what a person can do about it: `data/reasons.toml`, for every skin."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import Any, Final, NamedTuple

from utils.setting_types import REPOSITORY

# Those that more than one module writes or reads.
OPTED_OUT: Final = "opted_out"
NO_CONSENT: Final = "no_consent"
TOO_LATE: Final = "too_late"
DO_NOT_DISTURB: Final = "do_not_disturb"
DAILY_LIMIT: Final = "daily_limit"
UNUSUAL_VOLUME: Final = "unusual_volume"
NEEDS_APPROVAL: Final = "needs_approval"
# What a brake holds, only who may approve lets go.
BRAKES: Final = frozenset({DAILY_LIMIT, UNUSUAL_VOLUME, NEEDS_APPROVAL})
REASONS_FILE = REPOSITORY / "data" / "reasons.toml"
_HTTP = re.compile(r"http_(\d{3})")


class Explained(NamedTuple):
    explanation: str
    remedy: str | None = None


def explain(reason: str | None, status: str | None = None) -> Explained | None:
    """None for a word that the file does not have. `status`: of the message, where it makes a difference."""
    if reason is None:
        return None
    http = _HTTP.fullmatch(reason)
    entry = _entries().get("http" if http else reason)
    if entry is None:
        return None
    entry = entry.get(status or "", entry)
    explanation = entry["explanation"].format(status=http[1]) if http else entry["explanation"]
    return Explained(explanation, entry.get("remedy"))


def in_json(
    reason: str | None, status: str | None = None, detail: str | None = None
) -> dict[str, str | None]:
    """`explanation` and `remedy`, null where there is nothing to say. `detail`: the figures of this one."""
    found = explain(reason, status)
    if found is None:
        return {"explanation": None, "remedy": None}
    return found._replace(
        explanation=f"{found.explanation}: {detail}" if detail else found.explanation
    )._asdict()


@cache
def _entries() -> dict[str, dict[str, Any]]:
    with REASONS_FILE.open("rb") as file:
        return tomllib.load(file)
