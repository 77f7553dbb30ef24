"""All scenarios, in the order in which they are run."""

from __future__ import annotations

from tests.proof import callbacks, keeping, sending

SCENARIOS = [*sending.SCENARIOS, *callbacks.SCENARIOS, *keeping.SCENARIOS]
