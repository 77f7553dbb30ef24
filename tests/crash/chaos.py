"""SIGKILL for one process after another, at random moments, and its restart at once."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import requests
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from messaging.storage import tables
from messaging.storage.database import Database
from tests.support.stack import Stack

NAMES = ("simulator", "web", "worker")
LOOK_SECONDS = 0.05


@dataclass
class Kill:
    """`back_at`: when the process was first seen to work again."""

    name: str
    at: datetime
    back_at: datetime | None = None


class Chaos:
    """Kills only what works: a process that is still starting is left to start. `mean_seconds`: between kills."""

    def __init__(self, stack: Stack, database: Database, seed: int, mean_seconds: float = 0.5) -> None:
        self.kills: list[Kill] = []
        self._stack = stack
        self._database = database
        self._dice = random.Random(seed)
        self._mean_seconds = mean_seconds
        self._starting: dict[str, Kill] = {}

    @property
    def counts(self) -> Counter[str]:
        return Counter(kill.name for kill in self.kills)

    def run(self, kills: int, most_seconds: float) -> None:
        deadline = time.monotonic() + most_seconds
        while len(self.kills) < kills and time.monotonic() < deadline:
            self._watch(self._dice.expovariate(1 / self._mean_seconds))
            working = [name for name in NAMES if name not in self._starting]
            if working:
                self._kill(self._choose(working))

    def wait_for_all(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self._starting:
            self._watch(LOOK_SECONDS)
            if time.monotonic() > deadline:
                raise AssertionError(f"{sorted(self._starting)} did not come back after a kill")

    def _choose(self, working: list[str]) -> str:
        """Rather one that was killed seldom: else the slowest to start would be killed least."""
        weights = [1 / (1 + self.counts[name]) for name in working]
        return self._dice.choices(working, weights)[0]

    def _kill(self, name: str) -> None:
        self._must_run(name)
        kill = Kill(name, datetime.now(UTC))
        self._stack.kill(name)
        self.kills.append(kill)
        self._stack.start(name)
        self._starting[name] = kill

    def _must_run(self, name: str) -> None:
        code = self._stack.processes[name].poll()
        if code is not None:
            raise AssertionError(f"{name} ended by itself with {code}: {self._stack.log(name)[-2000:]}")

    def _watch(self, seconds: float) -> None:
        """Passes the time, and notes who is back."""
        deadline = time.monotonic() + seconds
        while True:
            for name in [name for name in self._starting if self._works(name)]:
                self._starting.pop(name).back_at = datetime.now(UTC)
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, LOOK_SECONDS))

    def _works(self, name: str) -> bool:
        self._must_run(name)
        if name == "worker":
            return self._has_beaten(self._stack.processes[name].pid)
        url = {
            "web": f"{self._stack.web_url}/healthz",
            "simulator": f"{self._stack.simulator_url}/version1/user",
        }
        try:
            return requests.get(url[name], headers={"apiKey": "any"}, timeout=1).status_code == 200
        except requests.RequestException:
            return False

    def _has_beaten(self, process_id: int) -> bool:
        mine = tables.heartbeats.c.worker.like(f"%:{process_id}:%")
        try:
            with self._database.read() as connection:
                return connection.execute(select(tables.heartbeats.c.worker).where(mine)).first() is not None
        except SQLAlchemyError:
            return False
