"""Faults on demand: what `POST /_simulator/faults` accepts. `GET` shows every fault, false where it is off.

A body sets the faults it names and leaves the others. Each fault takes one of::

    true                      on, with its usual value
    false, null, 0            off
    2.5, "Word", ["A", "B"]   on, with that value (seconds, status code, word, sender ids: see the table)
    0.1                       for a fault without a value: on with that probability
    3                         for a fault without a value: on for the next three
    {"value": 2.5, "probability": 0.1, "count": 3, "numbers": ["77"]}   any of these together

``count`` means the next n POSTs (for faults marked "each", the next n recipients); then the fault is off. ``numbers``
limits it to recipients that end so; a fault of the whole POST then needs one such recipient among its own.

| fault                     | value (usual)      | what AT then does                                                |
|---------------------------|--------------------|------------------------------------------------------------------|
| latency_seconds           | seconds (1)        | waits before it accepts                                          |
| reset_before_accept       |                    | cuts the connection (TCP RST), nothing accepted                  |
| hang_before_accept        | seconds (120)      | never answers, nothing accepted; cuts when the time is over      |
| status_429                | Retry-After (1)    | 429, nothing accepted; also as ``{"retry_after": 1}``            |
| status_5xx                | status (503)       | that status, nothing accepted                                    |
| bad_key                   |                    | 401 as for a wrong key                                           |
| invalid_sender            | sender ids (all)   | 201 with ``InvalidSenderId`` and no recipients                   |
| insufficient_balance      | each               | that recipient is refused with 405                               |
| hang_after_accept         | seconds (120)      | accepts, then never answers                                      |
| reset_after_accept        |                    | accepts, then cuts the connection (TCP RST)                      |
| status_5xx_after_accept   | status (500)       | accepts, then that status                                        |
| drop_recipients           | each               | accepts the recipient but leaves it out of the answer            |
| shuffle_answer            |                    | recipients come back in another order                            |

Under ``"reports"``, an object of its own (``{"reports": {"duplicated": true}}``, or ``"reports": "off"`` for one)::

    duplicated     copies (2)        each    the report comes that often
    reordered      seconds (1)       each    at a random moment, and an outdated ``Sent`` comes after it
    delayed        seconds (5)       each    comes that much later
    dropped                          each    never comes
    before_answer                    each    comes before the answer to the POST
    off                              each    no reports at all
    unknown_word   word (Teleported) each    carries a word that nobody documented

``GET`` calls (balance, inbox) suffer ``latency_seconds``, ``status_429``, ``status_5xx`` and ``bad_key`` too, as in a
real outage, but only where the fault has neither count nor numbers: a probe must not use up what a test counts.
Faults are kept in the database file and outlive a crash.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REPORTS = "reports"


class FaultError(ValueError):
    """A fault setting that does not follow the grammar; the message says what does."""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def is_status(value: Any) -> bool:
    return isinstance(value, int) and 500 <= value <= 599


def is_copies(value: Any) -> bool:
    return isinstance(value, int) and 2 <= value <= 100


def is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_word(word) for word in value)


@dataclass(frozen=True, slots=True)
class Kind:
    """``usual`` is the value of a bare ``true``; ``accepts`` is None for a fault without a value."""

    usual: Any = True
    accepts: Callable[[Any], bool] | None = None
    expects: str = ""


SECONDS = "seconds, zero or more"
KINDS = {
    "latency_seconds": Kind(1, is_number, SECONDS),
    "reset_before_accept": Kind(),
    "hang_before_accept": Kind(120, is_number, SECONDS),
    "status_429": Kind(1, is_number, SECONDS),
    "status_5xx": Kind(503, is_status, "a status from 500 to 599"),
    "bad_key": Kind(),
    "invalid_sender": Kind(True, is_words, "a list of sender ids"),
    "insufficient_balance": Kind(),
    "hang_after_accept": Kind(120, is_number, SECONDS),
    "reset_after_accept": Kind(),
    "status_5xx_after_accept": Kind(500, is_status, "a status from 500 to 599"),
    "drop_recipients": Kind(),
    "shuffle_answer": Kind(),
    "reports.duplicated": Kind(2, is_copies, "a number of copies from 2 to 100"),
    "reports.reordered": Kind(1, is_number, SECONDS),
    "reports.delayed": Kind(5, is_number, SECONDS),
    "reports.dropped": Kind(),
    "reports.before_answer": Kind(),
    "reports.off": Kind(),
    "reports.unknown_word": Kind("Teleported", is_word, "a word"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    value: Any = True
    probability: float = 1.0
    count: int | None = None
    numbers: tuple[str, ...] = ()

    def concerns(self, numbers: Sequence[str]) -> bool:
        return not self.numbers or any(number.endswith(self.numbers) for number in numbers)

    def describe(self) -> Any:
        """The setting that would set this fault again."""
        described: dict[str, Any] = {"value": self.value} if self.value is not True else {}
        if self.probability < 1:
            described["probability"] = self.probability
        if self.count is not None:
            described["count"] = self.count
        if self.numbers:
            described["numbers"] = list(self.numbers)
        return described or True


def parse_fault(name: str, setting: Any) -> Fault | None:
    """None turns the fault off. Raises FaultError."""
    kind = KINDS.get(name)
    if kind is None:
        raise FaultError(f"unknown fault {name!r}; known: {', '.join(KINDS)}")
    if setting is None or setting is False or setting == 0:
        return None
    if setting is True:
        return Fault(kind.usual)
    if isinstance(setting, Mapping):
        return parse_fault_object(name, kind, setting)
    if kind.accepts is None and is_number(setting):
        return Fault(probability=float(setting)) if setting < 1 else Fault(count=whole(name, setting))
    return Fault(checked_value(name, kind, setting))


def parse_fault_object(name: str, kind: Kind, setting: Mapping[str, Any]) -> Fault | None:
    setting = dict(setting)
    if name == "status_429" and "retry_after" in setting:
        setting["value"] = setting.pop("retry_after")
    unknown = setting.keys() - {"value", "probability", "count", "numbers"}
    if unknown:
        raise FaultError(f"{name} does not know {', '.join(sorted(unknown))}")
    probability, count = setting.get("probability", 1.0), setting.get("count")
    if not is_number(probability) or probability > 1:
        raise FaultError(f"{name}: probability is a number from 0 to 1")
    numbers = setting.get("numbers") or []
    if numbers and not is_words(numbers):
        raise FaultError(f"{name}: numbers is a list of strings, the ends of phone numbers")
    count = None if count is None else whole(name, count)
    if probability == 0 or count == 0:
        return None
    return Fault(
        checked_value(name, kind, setting.get("value", True)), float(probability), count, tuple(numbers)
    )


def whole(name: str, value: Any) -> int:
    if not is_number(value) or value != int(value):
        raise FaultError(f"{name}: a count is a whole number")
    return int(value)


def checked_value(name: str, kind: Kind, value: Any) -> Any:
    if value is True:
        return kind.usual
    if kind.accepts is None:
        raise FaultError(f"{name} takes no value")
    if not kind.accepts(value):
        raise FaultError(f"{name} takes {kind.expects}")
    return value


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"reports": {"off": true}}`` as ``{"reports.off": true}``; a bare word or a list of words is on."""
    flat = {name: setting for name, setting in settings.items() if name != REPORTS}
    reports = settings.get(REPORTS, {})
    if isinstance(reports, str):
        reports = [reports]
    if isinstance(reports, list):
        reports = dict.fromkeys((str(word) for word in reports), True)
    if reports is None or reports is False:
        reports = {name.removeprefix("reports."): False for name in KINDS if name.startswith("reports.")}
    if not isinstance(reports, Mapping):
        raise FaultError('reports is an object such as {"duplicated": true}')
    return flat | {f"{REPORTS}.{name}": setting for name, setting in reports.items()}
