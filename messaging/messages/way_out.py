"""What a promotional text says of how to end such texts: part of it before it is measured, priced and stored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from utils.errors import InvalidInput
from utils.sender_ids import promotional_senders, sender_key
from utils.settings import Settings
from utils.texts import LONGEST_TEXT, compose

STOP = "STOP"


@dataclass(frozen=True, slots=True)
class WayOut:
    """`text`: empty where a sender needs none. `stop_words`: a text that says one of them has a way out."""

    text: str = ""
    stop_words: tuple[str, ...] = (STOP,)

    @classmethod
    def of(cls, settings: Settings, sender_id: str | None) -> WayOut:
        """`sender_id`: None is AT's default sender."""
        if sender_key(sender_id) not in promotional_senders(settings.sender_classes):
            return cls()
        return cls(compose(settings.way_out), (STOP, *settings.stop_words))

    def composed(self, text: str, field: str = "text") -> str:
        """As it is measured and sent. Raises InvalidInput where it is too long with the way out."""
        text = compose(text)
        if not self.text or self._is_in(text):
            return text
        # On a line of its own: behind a text without a full stop it would read as its end.
        whole = f"{text.rstrip()}\n{self.text}"
        if len(whole) > LONGEST_TEXT:
            raise InvalidInput(
                f"With the way out {self.text!r} (WAY_OUT_TEXT) the text has {len(whole)} characters;"
                f" at most {LONGEST_TEXT} can be sent",
                code="text_too_long",
                field=field,
            )
        return whole

    def _is_in(self, text: str) -> bool:
        return self.text in text or _saying(self.stop_words).search(text) is not None


@cache
def _saying(stop_words: tuple[str, ...]) -> re.Pattern[str]:
    """In capitals, as people write what is to be texted: a sale that does not stop names no way out."""
    words = "|".join(re.escape(word.upper()) for word in stop_words)
    return re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")
