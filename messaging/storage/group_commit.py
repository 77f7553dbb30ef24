"""Group commit without a thread of its own: the thread that holds the lock also writes what the waiting ones brought.

All of them share one commit. A thread that is alone pays nothing for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from utils.errors import StorageUnavailable

Work = Callable[[Connection, list[Any]], Sequence[Any]]

# PostgreSQL keeps a lock for each provider id that a transaction records, in a table of 6400 by default.
HEAVIEST_GROUP = 1500


class _Waiter:
    __slots__ = ("error", "is_done", "item", "result", "weight")

    def __init__(self, item: Any, weight: int) -> None:
        self.item = item
        self.weight = weight
        self.result: Any = None
        self.error: Exception | None = None
        self.is_done = False


@dataclass(slots=True)
class _Queue:
    """Of one kind of work."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    waiting: deque[_Waiter] = field(default_factory=deque)


class GroupCommit:
    """`write` opens a transaction, as `Database.write` does. Different works are written side by side."""

    def __init__(self, write: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._write = write
        self._queues: dict[Work, _Queue] = {}

    def submit(self, work: Work, item: Any, weight: int = 1) -> Any:
        """The result for `item`, once it is durable; raises what its transaction raised.

        `work` gets the items of all threads that wait with the same `work`, and returns a result for each.
        Where a group fails, each item is tried by itself.
        """
        waiter = _Waiter(item, weight)
        queue = self._queue_of(work)
        queue.waiting.append(waiter)
        with queue.turn:
            while not waiter.is_done:
                self._commit(work, _next_group(queue.waiting))
        if waiter.error is not None:
            raise waiter.error
        return waiter.result

    def _queue_of(self, work: Work) -> _Queue:
        return self._queues.setdefault(work, _Queue())

    def _commit(self, work: Work, group: list[_Waiter]) -> None:
        try:
            with self._write() as connection:
                results = work(connection, [one.item for one in group])
        except Exception as error:  # noqa: BLE001  (carried to the submitter, who raises it)
            if len(group) > 1:
                for one in group:
                    self._commit(work, [one])
            else:
                group[0].error, group[0].is_done = error, True
        else:
            for one, result in zip(group, results, strict=True):
                one.result, one.is_done = result, True
        finally:
            for one in group:
                if not one.is_done:
                    one.error, one.is_done = StorageUnavailable("The thread that commits has ended"), True


def _next_group(waiting: deque[_Waiter]) -> list[_Waiter]:
    group = [waiting.popleft()]
    weight = group[0].weight
    while waiting and weight + waiting[0].weight <= HEAVIEST_GROUP:
        group.append(waiting.popleft())
        weight += group[-1].weight
    return group
