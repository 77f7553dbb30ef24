"""Which scope of a key a call needs. A key that lacks it is told so; what is not named here changes things: `admin`."""

from __future__ import annotations

from typing import Final

from messaging.access.keys import ADMIN, READ, SEND

READING: Final = ("GET", "HEAD", "OPTIONS")
# What makes or stops texts.
SENDS: Final = frozenset(
    {
        "messages.send_messages",
        "uploads.upload_batch",
        "uploads.quote",
        "batches.pause_batch",
        "batches.resume_batch",
        "batches.cancel_batch",
        "conversations.say_in_conversation",
        "conversations.mark_conversation_read",
        "opt_outs.put_opt_out",
        "consents.withdraw_consent",
    }
)
# Each call asks for texts: SENDS_PER_MINUTE. The triggers do too (routes.guards).
LIMITED: Final = frozenset(
    {
        "messages.send_messages",
        "uploads.upload_batch",
        "conversations.say_in_conversation",
        "operations.resend_message",
    }
)
# What else a test key with `send` may change, in test data: without it there is nobody who could.
SENDS_OF_TEST_KEYS: Final = frozenset(
    {
        "consents.put_consent",
        "opt_outs.lift_opt_out",
        "held.release_held",
        "held.cancel_held",
        "operations.resume_sending",
        "operations.resend_message",
        "operations.close_message",
    }
)
# Who reads these reads about the persons who work here.
READ_BY_ADMINS: Final = frozenset({"access.show_actions"})


def scope_of(endpoint: str, method: str, *, is_test: bool = False) -> str:
    """Of a route under `/v1`."""
    if endpoint in SENDS or (is_test and endpoint in SENDS_OF_TEST_KEYS):
        return SEND
    return READ if method in READING and endpoint not in READ_BY_ADMINS else ADMIN
