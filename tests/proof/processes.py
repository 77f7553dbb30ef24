"""A process that is forked, heard, held at a step and ended; it never returns into the code of its parent."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

Say = Callable[..., None]
OVER, DIED, FAILED = 0, 71, 72
TIMEOUT_SECONDS = 60.0
PIECE = 65_536


class Child:
    """`work` gets the way to say something, and one that waits until the parent lets it go on."""

    def __init__(self, work: Callable[[Say, Callable[[], dict[str, Any]]], None]) -> None:
        hearing, saying = os.pipe()
        obeying, ordering = os.pipe()
        self.said: list[dict[str, Any]] = []
        self._rest = b""
        self._process_id = os.fork()
        if self._process_id == 0:
            os.close(hearing)
            os.close(ordering)
            _run(work, say_to(saying), lambda: json.loads(os.read(obeying, PIECE)))
        os.close(saying)
        os.close(obeying)
        self._hearing, self._ordering = hearing, ordering

    def hear_until(self, kind: str) -> bool:
        """False: it ended before it said so."""
        deadline = time.time() + TIMEOUT_SECONDS
        while not (self.said and self.said[-1]["kind"] == kind):
            is_there, _, _ = select.select([self._hearing], [], [], max(0.0, deadline - time.time()))
            if not is_there:
                self.kill()
                raise TimeoutError(f"a process hangs; it said {self.said}")
            piece = os.read(self._hearing, PIECE)
            if not piece:
                return False
            *lines, self._rest = (self._rest + piece).split(b"\n")
            self.said += [json.loads(line) for line in lines]
        return True

    def go_on(self, **order: Any) -> None:
        os.write(self._ordering, json.dumps(order).encode())

    def kill(self) -> None:
        os.kill(self._process_id, signal.SIGKILL)

    def end(self) -> int:
        """Hears the rest. The exit code; negative: the signal that ended it."""
        self.hear_until("")
        os.close(self._hearing)
        os.close(self._ordering)
        return os.waitstatus_to_exitcode(os.waitpid(self._process_id, 0)[1])


def _run(work: Callable[..., None], say: Say, obey: Callable[[], dict[str, Any]]) -> None:
    """No `finally` and no exit handler of the parent runs here, whatever happens."""
    try:
        work(say, obey)
    except BaseException:  # noqa: BLE001  (it is told to the parent, who judges)
        say("failed", error=" | ".join(traceback.format_exc(limit=-4).split("\n")))
        sys.stderr.flush()
        os._exit(FAILED)
    os._exit(OVER)


def say_to(descriptor: int) -> Say:
    """Written at once and whole: what was said is known outside however this process ends."""
    write = os.write

    def say(kind: str, **facts: Any) -> None:
        write(descriptor, json.dumps({"kind": kind, **facts}).encode() + b"\n")

    return say
