"""What a delivery report did: the words in `delivery_reports.effect`, and how a report is quoted in the history."""

MOVED = "moved"
NOTED = "noted"
IGNORED = "ignored"
UNKNOWN_WORD = "unknown_word"
PARKED = "parked"
ADOPTED = "adopted"


def words_of(word: str, failure_reason: str | None) -> str:
    """AT's own words, for the history."""
    return f"{word} {failure_reason}" if failure_reason else word
