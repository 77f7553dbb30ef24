"""One continuous load, many kills, and then the verdict: for the test in CI and for `make torture`."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import requests

from messaging.storage.database import Database
from tests.crash import load
from tests.crash.books import read_books
from tests.crash.causes import explain_unknowns
from tests.crash.chaos import Chaos
from tests.crash.judge import count, judge
from tests.crash.load import Load
from tests.crash.numbers import FAULTS
from tests.crash.settling import end_faults, wait_for_rest
from tests.support.databases import empty_database, opened
from tests.support.stack import Stack

# Short, so that the leases of the dead (this and a minute) end soon; long enough for a busy machine to answer.
DEADLINE_SECONDS = 4
# A trigger's lease is 80 s; a text that was refused by a dead simulator several times waits about as long.
REST_SECONDS = 300
REPLAYS = 25


@dataclass
class Verdict:
    """`problems` empty: all was kept. `counts`: what happened, to be shown."""

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def lines(self) -> list[str]:
        groups = {"kills": self.kills, "counts": self.counts, "causes of unknown": self.causes}
        told = [
            f"{name}: {', '.join(f'{key} {number}' for key, number in sorted(group.items()))}"
            for name, group in groups.items()
        ]
        return [f"{self.seconds:.0f} s, {sum(self.kills.values())} kills", *told, *self.problems]


def run_campaign(store: str, folder: Path, *, kills: int, most_seconds: float, seed: int) -> Verdict:
    """`kills` of single processes within `most_seconds` of load, then rest and the verdict."""
    with empty_database(store, folder) as database_url, opened(database_url) as database:
        stack = Stack(folder, database_url, {"AT_TIMEOUT_SECONDS": str(DEADLINE_SECONDS)})
        try:
            stack.start_all()
            return _Campaign(stack, database, seed).run(kills, most_seconds)
        finally:
            stack.close()


class _Campaign:
    def __init__(self, stack: Stack, database: Database, seed: int) -> None:
        self._stack = stack
        self._database = database
        self._dice = random.Random(seed)
        self._load = Load(stack, seed)
        self._chaos = Chaos(stack, database, seed)

    def run(self, kills: int, most_seconds: float) -> Verdict:
        began_at = time.monotonic()
        verdict = Verdict()
        self._stack.control("faults", FAULTS)
        self._load.start()
        self._chaos.run(kills, most_seconds)
        self._load.stop_asking()
        self._chaos.wait_for_all()
        end_faults(self._stack)
        verdict.problems += self._rest()
        verdict.problems += self._replay()
        verdict.problems += self._audit()
        self._judge(verdict)
        verdict.seconds = time.monotonic() - began_at
        return verdict

    def _rest(self) -> list[str]:
        open_now = wait_for_rest(self._stack, self._database, REST_SECONDS)
        deadline = time.monotonic() + 30
        while not self._load.is_over and time.monotonic() < deadline:
            time.sleep(0.2)
        # A client that still asked may have begun something new after the first look.
        open_now = open_now or wait_for_rest(self._stack, self._database, REST_SECONDS)
        self._load.give_up()
        return [f"never came to rest: {open_now}"] if open_now else []

    def _replay(self) -> list[str]:
        """The same call with the same key again: the same answer, and nothing is sent (the judge looks after)."""
        settled = [
            one for one in self._load.promises if one.outcome == load.ACCEPTED and one.kind != load.INBOUND
        ]
        problems = []
        for promise in self._dice.sample(settled, min(REPLAYS, len(settled))):
            again = requests.request(**promise.request, timeout=load.CALL_SECONDS)
            if again.json() != promise.answer:
                problems.append(
                    f"{promise.kind} {promise.text}: the key's second answer differs: {again.text}"
                )
        return problems

    def _audit(self) -> list[str]:
        found = self._stack.get("/v1/audit").json()
        command = self._stack.flask("sms", "audit")
        problems = [f"audit: {problem}" for problem in found["problems"]]
        if command.returncode:
            problems.append(f"sms audit ends with {command.returncode}: {command.stdout}{command.stderr}")
        return problems

    def _judge(self, verdict: Verdict) -> None:
        books = read_books(self._database, self._stack)
        verdict.problems += judge(books, self._load.promises, self._load.shared_numbers)
        verdict.causes, unexplained = explain_unknowns(books, self._chaos.kills, DEADLINE_SECONDS)
        verdict.problems += unexplained
        verdict.kills = self._chaos.counts
        verdict.counts = count(books) + self._load.answers
        verdict.counts.update(f"{one.kind} {one.outcome}" for one in self._load.promises)
