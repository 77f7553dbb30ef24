"""What a pause is called: of the whole account, or of one sender id."""

ACCOUNT = "account"
SENDER_PREFIX = "sender:"


def sender_name(sender_id: str | None) -> str:
    return SENDER_PREFIX + (sender_id or "").upper()
