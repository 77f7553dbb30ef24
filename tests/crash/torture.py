"""`make torture`: thousands of kills on both stores, in rounds that each end with a verdict.

    python -m tests.crash.torture [--kills N] [--round N] [--store sqlite] [--store postgresql] [--seed N]

Exit code 1 where a promise was broken; then the folder with the books and logs of that round is kept and named.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from tests.crash.campaign import Verdict, run_campaign
from tests.support.databases import has_postgresql

STORES = ("sqlite", "postgresql")
# A kill takes about a second; a machine with other work gets more time.
MOST_SECONDS_PER_KILL = 4


@click.command()
@click.option("--kills", default=1000, show_default=True, help="on each store")
@click.option("--round", "per_round", default=250, show_default=True, help="kills between two verdicts")
@click.option(
    "--store", "stores", multiple=True, type=click.Choice(STORES), default=STORES, show_default=True
)
@click.option("--seed", type=int, help="of the first round; the next has the next number")
def main(kills: int, per_round: int, stores: tuple[str, ...], seed: int | None) -> None:
    """Kills single processes inside a continuous load, and judges what the handsets received."""
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    total, broken = Verdict(), 0
    for store in stores:
        if store == "postgresql" and not has_postgresql():
            raise click.ClickException("no PostgreSQL at TEST_DATABASE_URL; --store sqlite leaves it out")
        for killed in range(0, kills, per_round):
            verdict = _run_round(store, min(per_round, kills - killed), seed)
            _add(total, verdict)
            broken += bool(verdict.problems)
            seed += 1
    click.echo("\n".join(("", "Summary", *_indented(total.lines()))))
    click.echo("every promise was kept" if not broken else f"promises were broken in {broken} rounds")
    sys.exit(1 if broken else 0)


def _run_round(store: str, kills: int, seed: int) -> Verdict:
    folder = Path(tempfile.mkdtemp(prefix=f"torture-{store}-"))
    click.echo(f"{store}, seed {seed}, {kills} kills …")
    verdict = run_campaign(store, folder, kills=kills, most_seconds=kills * MOST_SECONDS_PER_KILL, seed=seed)
    killed = sum(verdict.kills.values())
    if killed < kills:
        verdict.problems.append(f"only {killed} of {kills} kills found a process that worked")
    click.echo("\n".join(_indented(verdict.lines())))
    if verdict.problems:
        click.echo(f"  books and logs: {folder}")
    else:
        shutil.rmtree(folder)
    return verdict


def _add(total: Verdict, verdict: Verdict) -> None:
    total.problems += verdict.problems
    total.counts += verdict.counts
    total.causes += verdict.causes
    total.kills += verdict.kills
    total.seconds += verdict.seconds


def _indented(lines: list[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


if __name__ == "__main__":
    main()
