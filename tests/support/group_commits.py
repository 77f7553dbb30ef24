"""Threads that submit at the same moment, so that they share a commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from messaging.storage.group_commit import GroupCommit, Work

TIMEOUT_SECONDS = 20.0
# Until all of them wait.
GATHERING_SECONDS = 0.3


def in_one_group(groups: GroupCommit, work: Work, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call came to, in threads that all find the turn of `work` taken before the first of them commits."""
    turn = groups._queue_of(work).turn
    turn.acquire()
    return at_once(calls, lambda threads: (threads[-1].join(GATHERING_SECONDS), turn.release()))


def at_once(
    calls: Sequence[Callable[[], Any]],
    meanwhile: Callable[[Sequence[threading.Thread]], object] | None = None,
) -> list[Any]:
    """What each call returned or raised, in a thread of its own. `meanwhile`: done once all have started."""
    found: list[Any] = [None] * len(calls)

    def run(place: int) -> None:
        try:
            found[place] = calls[place]()
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    if meanwhile is not None:
        meanwhile(threads)
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    return found
