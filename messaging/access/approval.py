"""Who may let go what a brake holds. Every door asks here: API, command, page, and the list of what is held."""

from __future__ import annotations

from messaging.access.actor import acting
from utils.errors import Forbidden
from utils.reasons import NEEDS_APPROVAL


def require_approver(reason: str, author: str | None = None) -> None:
    """`author`: who asked for it, as `acting_name()` wrote it down. Raises Forbidden with the reason as its code.

    Nobody is no approver: offline, where calls need no key, nobody knows who they are from.
    """
    actor = acting.get()
    if actor is None or not actor.may_approve:
        raise Forbidden(
            "This waits for an approver: an operator with the role approver or admin, a key with the scope"
            " admin, or the command line",
            code=reason,
        )
    if reason == NEEDS_APPROVAL and actor.name == author:
        raise Forbidden(f"{author} asked for this send: somebody else has to approve it", code=reason)
