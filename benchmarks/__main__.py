"""`python -m benchmarks [name…]`: every module beside this one that has a `measure()` is a benchmark."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
import time
from collections.abc import Callable

from rich.console import Console

import benchmarks
from benchmarks.support import results
from benchmarks.support.processes import CannotMeasure

Measure = Callable[[], results.Result]


def discover() -> dict[str, Measure]:
    names = (found.name for found in pkgutil.iter_modules(benchmarks.__path__) if not found.ispkg)
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names if name != "__main__"}
    return {name: module.measure for name, module in modules.items()}


def main(wanted: list[str]) -> int:
    # Asked to stop, it still stops the processes it started.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console, errors = Console(), Console(stderr=True)
    known = discover()
    unknown = [name for name in wanted if name not in known]
    if unknown:
        errors.print(f"No such benchmark: {', '.join(unknown)}. There are: {', '.join(known)}")
        return 2
    failed = [name for name in wanted or known if not _run(console, errors, name, known[name])]
    return 1 if failed else 0


def _run(console: Console, errors: Console, name: str, measure: Measure) -> bool:
    console.rule(name)
    started = time.monotonic()
    try:
        result = measure()
    except CannotMeasure as error:
        errors.print(f"{name} measured nothing: {error}", markup=False)
        return False
    results.show(console, result)
    path = results.save(name, result, time.monotonic() - started)
    console.print(f"Took {time.monotonic() - started:.0f} s. Figures: {path.relative_to(path.parents[2])}")
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
