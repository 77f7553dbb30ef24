"""Who is acting: set by a skin for the length of a request or a command, read where something is written down.

A context variable, as the request's id is one: the functions in between would only pass it on.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """`name`: `key:billing`, `operator:ann`, `shell:root`. `address`: where a request came from."""

    name: str
    address: str | None = None
    # A role or scope that lets go what a brake holds.
    may_approve: bool = False


# None: the service itself, in a worker.
acting: ContextVar[Actor | None] = ContextVar("acting", default=None)


def required_name() -> str:
    """For a page or a command: there somebody always acts. Raises LookupError."""
    name = acting_name()
    if name is None:
        raise LookupError("Nobody acts")
    return name


def acting_name() -> str | None:
    actor = acting.get()
    return None if actor is None else actor.name
