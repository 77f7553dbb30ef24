"""The faults in force. What a fault may look like stands in ``fault_grammar``."""

import json
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .fault_grammar import KINDS, REPORTS, Fault, flatten, parse_fault
from .store import Store

SHARED_BY_READS = ("latency_seconds", "status_429", "status_5xx", "bad_key")


class Faults:
    """The faults in force. ``fires`` is asked on every POST, so a fault that is off costs one dictionary look-up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._dice = random.SystemRandom()
        self._active: dict[str, Fault] = {}
        self.reload()

    def reload(self) -> None:
        found = self._store.rows("SELECT name, setting FROM faults")
        parsed = {row["name"]: parse_fault(row["name"], json.loads(row["setting"])) for row in found}
        self._active = {name: fault for name, fault in parsed.items() if fault}

    def set(self, settings: Mapping[str, Any]) -> None:
        """All of the settings or, with FaultError, none."""
        parsed = {name: parse_fault(name, setting) for name, setting in flatten(settings).items()}
        with self._lock:
            for name, fault in parsed.items():
                self._put(name, fault)

    def _put(self, name: str, fault: Fault | None) -> None:
        with self._store.write() as connection:
            connection.execute("DELETE FROM faults WHERE name = ?", (name,))
            if fault:
                setting = json.dumps(fault.describe())
                connection.execute("INSERT INTO faults (name, setting) VALUES (?, ?)", (name, setting))
        active = {known: other for known, other in self._active.items() if known != name}
        self._active = active | {name: fault} if fault else active

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {REPORTS: {}}
        for name in KINDS:
            fault = self._active.get(name)
            group = described[REPORTS] if name.startswith("reports.") else described
            group[name.removeprefix("reports.")] = fault.describe() if fault else False
        return described

    def active_names(self) -> list[str]:
        return [name for name in KINDS if name in self._active]

    def touches_reports(self) -> bool:
        return any(name.startswith("reports.") for name in self._active)

    def is_set(self, name: str) -> bool:
        return name in self._active

    def is_unconditional(self, name: str) -> bool:
        fault = self._active.get(name)
        return fault is not None and fault.probability == 1 and fault.count is None and not fault.numbers

    def fires(self, name: str, numbers: Sequence[str] = ()) -> Any:
        """The fault's value when it strikes now (and one of its count is used up), else None."""
        fault = self._active.get(name)
        if fault is None or not fault.concerns(numbers):
            return None
        if fault.probability < 1 and self._dice.random() >= fault.probability:
            return None
        return fault.value if fault.count is None else self._use_one(name)

    def _use_one(self, name: str) -> Any:
        with self._lock:
            fault = self._active.get(name)
            if fault is None or fault.count is None:
                return fault and fault.value
            left = fault.count - 1
            self._put(name, replace(fault, count=left) if left else None)
            return fault.value

    def fires_on_read(self, name: str) -> Any:
        fault = self._active.get(name)
        if name not in SHARED_BY_READS or fault is None or fault.count is not None or fault.numbers:
            return None
        return self.fires(name)

    def invalid_sender(self, sender: str, numbers: Sequence[str]) -> bool:
        """A list of names strikes, and counts, only for those senders."""
        fault = self._active.get("invalid_sender")
        if fault is None or (fault.value is not True and sender not in fault.value):
            return False
        return bool(self.fires("invalid_sender", numbers))
