"""All scenarios, in the order in which they are run."""

from __future__ import annotations

from tests.proof import callbacks, keeping, restoring, sending

SCENARIOS = [*sending.SCENARIOS, *callbacks.SCENARIOS, *keeping.SCENARIOS, *restoring.SCENARIOS]
