"""Two pieces of work on PostgreSQL, statement by statement, in every order with few switches between them.

Each thread stops before each statement, each commit and each lock of a file until it is let go on. One that waits for
a lock of the other is told from one that is merely slow by the server's own list of locks. Where both wait, that is a
deadlock: the server ends one of the two after a second, and the trace counts it.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy.engine.default import DefaultDialect

POLL_SECONDS = 0.002
TIMEOUT_SECONDS = 30.0
WAITS = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted)"
RUNNING, READY, OVER = "running", "ready", "over"

_here = threading.local()


class Actor(threading.Thread):
    """One of the two. `state` is guarded by `change`; `step` is what it is about to do."""

    def __init__(self, name: str, work: Callable[[], Any], change: threading.Condition) -> None:
        super().__init__(name=name, daemon=True)
        self.state = RUNNING
        self.step = ""
        self.session: int | None = None
        self.waits_for_file = False
        self.result: Any = None
        self._work = work
        self._change = change

    def run(self) -> None:
        _here.actor = self
        try:
            self.result = self._work()
        except Exception as error:  # noqa: BLE001  (what it came to is judged)
            self.result = error
        finally:
            self._turn(OVER)

    def stop_before(self, step: str, session: int | None) -> None:
        self.step, self.session = step, session
        self._turn(READY)
        with self._change:
            if not self._change.wait_for(lambda: self.state == RUNNING, TIMEOUT_SECONDS):
                raise TimeoutError(f"{self.name} was never let go on")

    def go_on(self) -> None:
        self._turn(RUNNING)

    def _turn(self, state: str) -> None:
        with self._change:
            self.state = state
            self._change.notify_all()


@dataclass
class Trace:
    """`choices`: who went, wherever both could. `log`: every step with who took it."""

    choices: list[int] = field(default_factory=list)
    switches: list[int] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    deadlocks: int = 0

    def place(self, actor: str, word: str) -> int | None:
        """Of the first such step of this actor."""
        found = (at for at, (name, step) in enumerate(self.log) if name == actor and word in step)
        return next(found, None)


class Stage:
    """Watches the statements of all actors of this process; `looking` sees the server's locks."""

    def __init__(self, url: str) -> None:
        self._looking = psycopg.connect(url, autocommit=True)
        self._flock = fcntl.flock
        fcntl.flock = _stopping_flock(self._flock)
        self._originals = {name: getattr(DefaultDialect, name) for name in _WATCHED}
        for name, original in self._originals.items():
            setattr(DefaultDialect, name, _stopping(original, name))

    def close(self) -> None:
        for name, original in self._originals.items():
            setattr(DefaultDialect, name, original)
        fcntl.flock = self._flock
        self._looking.close()

    def play(self, works: dict[str, Callable[[], Any]], prefix: tuple[int, ...]) -> Trace:
        """Lets them go as `prefix` says wherever both can, then each as far as it gets."""
        change = threading.Condition()
        actors = [Actor(name, work, change) for name, work in works.items()]
        trace, last, spent = Trace(), 0, 0
        for one in actors:
            one.start()
        while True:
            trace.deadlocks += self._wait_for_rest(actors, change)
            ready = [place for place, one in enumerate(actors) if one.state == READY]
            if not ready:
                break
            chosen = last if last in ready else ready[0]
            if len(ready) > 1:
                number = len(trace.choices)
                chosen = prefix[number] if number < len(prefix) else chosen
                spent += chosen != last and bool(trace.log)
                trace.choices.append(chosen)
                trace.switches.append(spent)
            last = chosen
            trace.log.append((actors[chosen].name, actors[chosen].step))
            actors[chosen].go_on()
        trace.results = [one.result for one in actors]
        for one in actors:
            one.join()
        return trace

    def _wait_for_rest(self, actors: list[Actor], change: threading.Condition) -> bool:
        """Until each is ready, over, or waits for a lock of the other. Whether both waited for each other."""
        deadline, is_deadlock = time.monotonic() + TIMEOUT_SECONDS, False
        while time.monotonic() < deadline:
            with change:
                if change.wait_for(lambda: all(one.state != RUNNING for one in actors), POLL_SECONDS):
                    return is_deadlock
                running = [one for one in actors if one.state == RUNNING]
            waiting = [one for one in running if self._waits(one)]
            with change:
                # One that the other has just let in is waiting no more, though it was when it was asked.
                is_still = all(one.state == RUNNING for one in running)
            if len(waiting) == len(actors):
                is_deadlock = True
            elif is_still and len(waiting) == len(running) and any(one.state == READY for one in actors):
                return is_deadlock
        raise TimeoutError("neither went on")

    def _waits(self, actor: Actor) -> bool:
        if actor.session is None:
            return actor.waits_for_file
        (waits,) = self._looking.execute(WAITS, [actor.session]).fetchone() or (False,)
        return bool(waits)


def explore(
    play: Callable[[tuple[int, ...]], Trace], most_switches: int, most_orders: int
) -> Iterator[Trace]:
    """Every order with at most so many switches from one that could have gone on, fewest first."""
    waiting: list[tuple[int, ...]] = [()]
    seen = 0
    while waiting and seen < most_orders:
        prefix = waiting.pop(0)
        trace = play(prefix)
        seen += 1
        yield trace
        for place in range(len(prefix), len(trace.choices)):
            other = (*trace.choices[:place], 1 - trace.choices[place])
            before = trace.switches[place - 1] if place else 0
            if before + (place > 0) <= most_switches:
                waiting.append(other)


_WATCHED = ("do_execute", "do_executemany", "do_execute_no_params", "do_commit")


def _stopping(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(dialect: Any, first: Any, *arguments: Any) -> Any:
        actor: Actor | None = getattr(_here, "actor", None)
        if actor is not None:
            connection = (
                first.connection if name != "do_commit" else getattr(first, "driver_connection", first)
            )
            step = "COMMIT" if name == "do_commit" else " ".join(arguments[0].split())
            actor.stop_before(step, connection.info.backend_pid)
        return original(dialect, first, *arguments)

    return call


def _stopping_flock(original: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """It asks again and again, so that whoever waits for the other is known to wait."""

    def call(descriptor: int, operation: int) -> None:
        actor: Actor | None = getattr(_here, "actor", None)
        if actor is None or operation & fcntl.LOCK_NB:
            original(descriptor, operation)
            return
        actor.stop_before("flock", None)
        while not _is_locked(original, descriptor, operation):
            actor.waits_for_file = True
            time.sleep(POLL_SECONDS)
        actor.waits_for_file = False

    return call


def _is_locked(original: Callable[[int, int], None], descriptor: int, operation: int) -> bool:
    try:
        original(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
