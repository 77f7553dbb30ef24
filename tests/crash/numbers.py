"""Whom the load texts. The last digits decide what the simulator may do, so every lost answer has a known cause."""

from __future__ import annotations

import itertools
import random

# A POST to a number that ends so may lose its answer. All faults that lose one are bound to such numbers: an
# `unknown` of any other number must come from a kill.
# One that ends with 78 is lost before AT takes it as often as after: of two such unknowns nobody can tell
# whose a report is.
LOSSY_FAULTS: dict[str, tuple[list[str], dict[str, int]]] = {
    "hang_after_accept": (["71"], {"value": 6}),
    "reset_after_accept": (["72", "78"], {}),
    "status_5xx_after_accept": (["73"], {}),
    "drop_recipients": (["74"], {}),
    "reset_before_accept": (["75", "78"], {}),
    "hang_before_accept": (["76"], {"value": 6}),
    "status_5xx": (["77"], {}),
}
LOSSY_ENDINGS = ("71", "72", "73", "74", "75", "76", "77", "78")
SHARED_ENDINGS = ("11", "12", "71", "74", "78", "78")
HOW_OFTEN = 0.5
FAULTS = {
    **{
        name: {"numbers": endings, "probability": HOW_OFTEN, **value}
        for name, (endings, value) in LOSSY_FAULTS.items()
    },
    "status_429": {"value": 1, "probability": 0.01},
    "latency_seconds": {"value": 0.4, "probability": 0.1},
    "shuffle_answer": {"probability": 0.3},
    "reports": {
        "duplicated": {"value": 3, "probability": 0.1},
        "reordered": {"value": 1, "probability": 0.15},
        "delayed": {"value": 3, "probability": 0.1},
        "dropped": {"probability": 0.03},
        "before_answer": {"probability": 0.1},
        "unknown_word": {"probability": 0.01},
    },
}
# Refused by code, left open by code, or accepted with another end than delivery (see simulator.outcomes).
# Not 0402, 0405 and 0409: they pause the sender or the account, or wait for the morning.
REFUSED = ("0403", "0404", "0406", "0407", "0408", "0502")
LEFT_OPEN = ("0401", "0500", "0501", "0903")
OTHER_ENDS = ("0900", "0901", "0902")
LOSES_ANSWER = (*LOSSY_ENDINGS, *LEFT_OPEN)


class Numbers:
    """Each number is given out once, but for the few in `shared`, where a lost answer may be anyone's."""

    def __init__(self) -> None:
        self._serials = itertools.count(1)
        self._odd_serials = itertools.count(1)
        self.shared = [self._number(ending) for ending in SHARED_ENDINGS]

    def fresh(self, dice: random.Random) -> str:
        kind = dice.random()
        if kind < 0.06:
            return self._number(dice.choice(LOSSY_ENDINGS))
        if kind < 0.10:
            ending = dice.choice((*REFUSED, *LEFT_OPEN, *OTHER_ENDS))
            return f"+2547{next(self._odd_serials):04d}{ending}"
        return self.plain(dice)

    def plain(self, dice: random.Random) -> str:
        return self._number(str(dice.randrange(10, 70)))

    def _number(self, ending: str) -> str:
        return f"+2547{next(self._serials):06d}{ending}"
