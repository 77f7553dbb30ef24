"""Group commit without a thread of its own: the thread that holds the lock also writes what the waiting ones brought.

All of them share one commit. A thread that is alone pays nothing for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from sqlalchemy import Connection

from utils.errors import StorageUnavailable

Work = Callable[[Connection, list[Any]], Sequence[Any]]

# PostgreSQL keeps a lock for each provider id that a transaction records, in a table of 6400 by default.
HEAVIEST_GROUP = 1500


class Step(NamedTuple):
    """A write to be."""

    work: Work
    item: Any
    rank: int = 0
    weight: int = 1


class _Waiter:
    __slots__ = ("error", "is_done", "results", "steps", "weight")

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.weight = sum(one.weight for one in steps)
        self.results: list[Any] = [None] * len(steps)
        self.error: Exception | None = None
        self.is_done = False


class GroupCommit:
    """`write` opens a transaction, as `Database.write` does."""

    def __init__(self, write: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._write = write
        self._turn = threading.Lock()
        self._waiting: deque[_Waiter] = deque()

    def submit_together(self, steps: Sequence[Step]) -> list[Any]:
        """The result of each, once all of them are durable; none is where it raises what their transaction raised.

        `work` gets the items of all threads that wait with the same `work` and returns a result for each.
        Works of one transaction are done by `rank`, lowest first, so that locks are taken in one order.
        Where a group fails, the steps of each thread are tried by themselves.
        """
        waiter = _Waiter(steps)
        self._waiting.append(waiter)
        with self._turn:
            while not waiter.is_done:
                self._commit(self._next_group())
        if waiter.error is not None:
            raise waiter.error
        return waiter.results

    def _next_group(self) -> list[_Waiter]:
        group = [self._waiting.popleft()]
        weight = group[0].weight
        while self._waiting and weight + self._waiting[0].weight <= HEAVIEST_GROUP:
            group.append(self._waiting.popleft())
            weight += group[-1].weight
        return group

    def _commit(self, group: list[_Waiter]) -> None:
        try:
            self._work(group)
        except Exception as error:  # noqa: BLE001  (carried to the submitter, who raises it)
            if len(group) > 1:
                for one in group:
                    self._commit([one])
            else:
                group[0].error, group[0].is_done = error, True
        finally:
            for one in group:
                if not one.is_done:
                    one.error, one.is_done = StorageUnavailable("The thread that commits has ended"), True

    def _work(self, group: list[_Waiter]) -> None:
        steps = [(step, waiter, place) for waiter in group for place, step in enumerate(waiter.steps)]
        by_work: dict[Any, list[tuple[Step, _Waiter, int]]] = {}
        for one in sorted(steps, key=lambda found: found[0].rank):
            by_work.setdefault(one[0].work, []).append(one)
        with self._write() as connection:
            done = [
                (mine, work(connection, [step.item for step, _, _ in mine])) for work, mine in by_work.items()
            ]
        for mine, results in done:
            for (_, waiter, place), result in zip(mine, results, strict=True):
                waiter.results[place] = result
        for waiter in group:
            waiter.is_done = True
