"""Runs a scenario again for each of its steps, ends or stops the process there, and asks the judge."""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.proof.processes import DIED, OVER, Child, Say
from tests.proof.provider import Provider
from tests.proof.scenario import DIES, KILLED, OVERTAKEN, STALLED, Scenario
from tests.proof.settling import ROUND_MINUTES, settle, verdict, work_beside
from tests.proof.steps import Steps, watch
from tests.proof.stores import Store
from tests.proof.world import TIME, World

# SIGKILL from outside leaves what `os._exit` leaves, and costs the same: a sample shows it.
KILLED_EACH = 12
KILL_SIGNAL = -9


@dataclass(frozen=True)
class Problem:
    """`step`: what was about to happen; None where nothing was done to the process."""

    scenario: str
    store: str
    way: str
    number: int
    step: str
    what: str

    def __str__(self) -> str:
        where = f"{self.way} before step {self.number}, {self.step}" if self.number else "undisturbed"
        return f"{self.scenario} on {self.store}, {where}: {self.what}"


@dataclass
class Result:
    """`points`: how many runs there were, by what was done to the process."""

    scenario: str
    store: str
    steps: int = 0
    points: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    way: str
    number: int


# Which of the points are run.
Choose = Callable[[Point], bool]


class Runner:
    """One scenario on one store."""

    def __init__(self, scenario: Scenario, store: Store, provider: Provider) -> None:
        self._scenario = scenario
        self._store = store
        self._provider = provider
        self._world = World(store, provider, **scenario.settings)
        self._names: list[str] = []

    def run(self, choose: Choose, *, until_first_problem: bool = False) -> Result:
        result = Result(self._scenario.name, self._store.name)
        self._warm()
        free, found = self._count()
        result.problems += found
        result.steps = len(self._names)
        for point in _points(self._scenario, free):
            if not choose(point) or (result.problems and until_first_problem):
                continue
            try:
                problems = self._run_point(point)
            except TimeoutError as error:
                problems = [str(error)]
            result.points[point.way] += 1
            result.problems += [self._problem(point, what) for what in problems]
        return result

    def _problem(self, point: Point, what: str) -> Problem:
        step = self._names[point.number - 1] if point.number else ""
        return Problem(self._scenario.name, self._store.name, point.way, point.number, step, what)

    def _begin(self) -> None:
        self._store.empty(self._scenario.revision)
        self._provider.reset(**self._scenario.provider)
        self._world.heard = []

    def _warm(self) -> None:
        """In this process, so that none of its children has to compile a statement."""
        self._begin()
        self._hear(lambda *_, **__: None)
        self._scenario.set_up(self._world)
        self._scenario.run(self._world)
        settle(self._world, self._scenario)
        verdict(self._world, self._scenario, DIES)
        self._world.close()
        TIME.begin_anew()
        # What the collector writes into its objects a child would have to copy.
        gc.collect()
        gc.freeze()
        gc.disable()

    def _count(self) -> tuple[list[bool], list[Problem]]:
        self._begin()
        child = Child(lambda say, obey: self._act(say, obey, Point(DIES, 0)))
        code = child.end()
        over = child.said[-1] if child.said else {}
        self._names = over.get("names", [])
        nowhere = Point("", 0)
        problems = self._judge(nowhere, child.said) if code == OVER else [f"the run failed: {over}"]
        return over.get("free", []), [self._problem(nowhere, what) for what in problems]

    def _run_point(self, point: Point) -> list[str]:
        self._begin()
        child = Child(lambda say, obey: self._act(say, obey, point))
        said: list[dict[str, Any]] = []
        expected = {OVER, DIED}
        if point.way != DIES and child.hear_until("held"):
            if point.way == KILLED:
                child.kill()
                expected = {KILL_SIGNAL}
            else:
                minutes = ROUND_MINUTES if point.way == STALLED else 0
                other = Child(lambda say, obey: self._overtake(say, child.said, minutes))
                if other.end() != OVER:
                    said = other.said
                child.go_on(minutes=minutes)
                said = said or other.said
        code = child.end()
        said = child.said + said
        if code not in expected:
            return [f"the process ended with {code}: {said[-1:]}"]
        return self._judge(point, said)

    def _act(self, say: Say, obey: Callable[[], dict[str, Any]], point: Point) -> None:
        """In a child: the scenario, up to the step."""
        random.seed(1)
        self._hear(say)
        self._scenario.set_up(self._world)

        def hold() -> None:
            # A busy machine may need a step more than when they were counted.
            if point.way != KILLED and not steps.is_free[-1]:
                return
            say("held")
            TIME.pass_by(minutes=obey()["minutes"])

        steps = Steps(point.number, _die if point.way == DIES else hold)
        watch(steps)
        self._scenario.run(self._world)
        steps.end()
        told = {"names": steps.names, "free": steps.is_free} if point.number == 0 else {}
        say("over", **told)

    def _overtake(self, say: Say, heard: list[dict[str, Any]], minutes: int) -> None:
        self._world.heard = list(heard)
        self._hear(say)
        TIME.pass_by(minutes=minutes)
        work_beside(self._world)

    def _judge(self, point: Point, heard: list[dict[str, Any]]) -> list[str]:
        """In a new process, as after a start."""
        failed = [one["error"] for one in heard if one["kind"] == "failed"]
        if failed:
            return failed
        self._provider.wait_until_alone()
        self._store.wait_until_alone()
        child = Child(lambda say, obey: self._settle(say, heard, point.way))
        code = child.end()
        problems = [one["what"] for one in child.said if one["kind"] == "problem"]
        problems += [one["error"] for one in child.said if one["kind"] == "failed"]
        self._store.wait_until_alone()
        return problems if problems or code == OVER else [f"the judge ended with {code}"]

    def _settle(self, say: Say, heard: list[dict[str, Any]], way: str) -> None:
        self._world.heard = list(heard)
        self._hear(lambda *_, **__: None)
        for what in [*settle(self._world, self._scenario), *verdict(self._world, self._scenario, way)]:
            say("problem", what=what)

    def _hear(self, say: Say) -> None:
        heard = self._world.heard

        def hear(kind: str, **facts: Any) -> None:
            heard.append({"kind": kind, **facts})
            say(kind, **facts)

        self._world.say = hear


def _die() -> None:
    os._exit(DIED)


def _points(scenario: Scenario, free: list[bool]) -> Iterator[Point]:
    for way in scenario.ways:
        for number in range(1, len(free) + 1):
            is_point = {
                DIES: True,
                KILLED: number % KILLED_EACH == 1,
                STALLED: free[number - 1],
                OVERTAKEN: free[number - 1],
            }
            if is_point[way]:
                yield Point(way, number)
