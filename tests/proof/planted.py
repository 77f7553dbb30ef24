"""`make proof-of-proof`: each fault of `tests.proof.faults` is planted in a copy of the source, and has to be found.

    python -m tests.proof.planted [NAME ...]

Exit code 1 where one is not found, or no longer fits the source.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.proof.faults import FAULTS, MODEL, Fault
from tests.proof.orders import NAMES as PAIRS
from utils.setting_types import REPOSITORY

LEFT_OUT = (".git", ".venv", "instance", "__pycache__", "benchmarks", ".*_cache")
TIMEOUT_SECONDS = 300
FOUND = "BROKEN: "
FIRST_ONLY = "--until-first-problem"


class DoesNotFit(Exception):
    """The source has changed: the fault has to be written anew."""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([one.name for one in FAULTS]))
def main(names: tuple[str, ...]) -> None:
    """Says which scenario found which fault."""
    wanted = [one for one in FAULTS if one.name in names or not names]
    escaped = [fault.name for fault in wanted if not is_found(fault)]
    click.echo(f"{len(wanted) - len(escaped)} of {len(wanted)} faults were found")
    sys.exit(1 if escaped else 0)


def is_found(fault: Fault) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="sms-planted-"))
    try:
        source = folder / "source"
        shutil.copytree(REPOSITORY, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
        plant(fault, source)
        problem = first_problem(fault, source)
    except (DoesNotFit, subprocess.TimeoutExpired) as error:
        problem, said = None, str(error)
    else:
        said = problem or f"{fault.finder!r} finds nothing"
    finally:
        shutil.rmtree(folder)
    click.echo(f"{'found' if problem else 'ESCAPED'}: {fault.name}\n    {said}")
    return problem is not None


def plant(fault: Fault, source: Path) -> None:
    for edit in fault.edits:
        path = source / edit.file
        content = path.read_text(encoding="utf-8")
        if content.count(edit.old) != 1:
            raise DoesNotFit(f"{edit.file} holds this {content.count(edit.old)} times: {edit.old!r}")
        path.write_text(content.replace(edit.old, edit.new), encoding="utf-8")


def first_problem(fault: Fault, source: Path) -> str | None:
    """None: it found nothing. Raises where it could not run at all."""
    if fault.finder == MODEL:
        arguments = ["tests.proof.model", "--depth", "5"]
    elif fault.finder in PAIRS:
        arguments = ["tests.proof.orders", "--switches", "2", "--pair", fault.finder, FIRST_ONLY]
    else:
        arguments = ["tests.proof", "--store", fault.store, "--scenario", fault.finder, "--way", fault.way]
        arguments += [FIRST_ONLY]
    command = [sys.executable, "-m", *arguments]
    ended = subprocess.run(
        command, cwd=source, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    broken = [line for line in ended.stdout.splitlines() if FOUND in line]
    if ended.returncode and not broken:
        raise DoesNotFit(f"{fault.finder!r} could not run: {ended.stderr[-500:]}")
    return broken[0].partition(FOUND)[2] if broken else None


if __name__ == "__main__":
    main()
