"""What a scenario is made of. Its functions act on a `World`, in whatever process they are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from messaging import statuses
from tests.crash import load
from tests.crash.books import Books
from tests.crash.load import Promise
from tests.proof.world import World

# How a process ends, or what happens to it, at a step.
DIES = "dies"
KILLED = "is killed"
# It stands still until its leases have ended, while another worker does all that there is to do. Then it goes on.
STALLED = "is stopped past its lease"
# Another worker does all that there is to do at that moment; the clock stands still.
OVERTAKEN = "is overtaken"
WAYS = (DIES, KILLED, STALLED, OVERTAKEN)

SETTLED = frozenset({statuses.DELIVERED, statuses.UNKNOWN})


@dataclass(frozen=True)
class Call:
    """A call of somebody outside who repeats it with its key until the answer is definite."""

    kind: str
    key: str
    text: str
    to: tuple[str, ...]

    def make(self, world: World) -> None:
        by = {load.API: world.send, load.TRIGGER: world.trigger, load.INBOUND: world.text}[self.kind]
        by(self.key, list(self.to), self.text)

    def promise(self, world: World) -> Promise:
        promise = Promise(self.kind, self.key, self.text, list(self.to), {})
        for one in world.heard:
            if one.get("key") == self.key and promise.outcome == load.OPEN:
                promise.tries += 1
                promise.answer = one["answer"] or {}
                promise.outcome = load.read_outcome(self.kind, one["status"], promise.answer)
        return promise


def nothing(_world: World) -> None:
    return None


def no_more(_world: World, _books: Books) -> Iterator[str]:
    yield from ()


@dataclass(frozen=True)
class Scenario:
    """`run` is what is watched. `finish`: what the world outside does when its process has died; `end`: after each
    round of work behind that.

    `statuses`: what a text may have come to. `more`: what else is judged, in words where it is wrong.
    """

    name: str
    run: Callable[[World], None]
    set_up: Callable[[World], None] = nothing
    finish: Callable[[World], None] = nothing
    end: Callable[[World], None] = nothing
    calls: tuple[Call, ...] = ()
    statuses: frozenset[str] = SETTLED
    more: Callable[[World, Books], Iterator[str]] = no_more
    provider: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ways: tuple[str, ...] = (DIES, KILLED, STALLED)
    revision: str = "head"
    stores: tuple[str, ...] = ("sqlite", "postgresql")


def repeat_callbacks(world: World, *callbacks: tuple[str, dict[str, str]]) -> None:
    """As AT does: each that was not answered 200 comes again."""
    done = {one["key"] for one in world.heard if one.get("status") == 200}
    for path, fields in callbacks:
        if json.dumps([path, fields]) not in done:
            world.callback(path, fields)
