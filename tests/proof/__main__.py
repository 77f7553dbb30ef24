"""`make proof`: every crash point of every scenario on both stores.

    python -m tests.proof [--store sqlite] [--scenario NAME] [--share N] [--until-first-problem]

Exit code 1 where a promise was broken, or a scenario has no points.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time

import click

from tests.proof.harness import Choose, Point, Result, Runner
from tests.proof.provider import Provider
from tests.proof.scenario import WAYS, Scenario
from tests.proof.scenarios import SCENARIOS
from tests.proof.stores import STORES
from tests.support.databases import has_postgresql
from utils.setting_types import REPOSITORY

NAMES = [one.name for one in SCENARIOS]
MOST_SHOWN = 20


@click.command()
@click.option("--store", "stores", multiple=True, type=click.Choice(list(STORES)), default=list(STORES))
@click.option("--scenario", "names", multiple=True, type=click.Choice(NAMES), default=NAMES)
@click.option(
    "--share", default=1, show_default=True, help="one point of so many; the commit's hash says which"
)
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), default=WAYS)
@click.option("--until-first-problem", is_flag=True)
def main(
    stores: tuple[str, ...],
    names: tuple[str, ...],
    share: int,
    ways: tuple[str, ...],
    until_first_problem: bool,
) -> None:
    """Ends the process at each step of each scenario, and judges what became of every text."""
    if "postgresql" in stores and not has_postgresql():
        raise click.ClickException("no PostgreSQL at TEST_DATABASE_URL; --store sqlite leaves it out")
    provider = Provider()
    try:
        results = [
            _run(one, store, provider, _chosen(one.name, share, ways), until_first_problem)
            for store in stores
            for one in SCENARIOS
            if one.name in names and store in one.stores
        ]
    finally:
        provider.close()
    sys.exit(_summary(results, is_whole=ways == WAYS and share == 1))


def _run(
    scenario: Scenario, kind: str, provider: Provider, choose: Choose, until_first_problem: bool
) -> Result:
    began_at = time.time()
    store = STORES[kind]()
    try:
        runner = Runner(scenario, store, provider)
        result = runner.run(choose, until_first_problem=until_first_problem)
    finally:
        store.close()
    ways = ", ".join(f"{count} {way}" for way, count in result.points.items())
    click.echo(
        f"{kind:10} {scenario.name:32} {result.steps:4} steps: {ways} ({time.time() - began_at:.1f} s)"
    )
    for problem in result.problems[:MOST_SHOWN]:
        click.echo(f"  BROKEN: {problem}")
    return result


def _chosen(name: str, share: int, ways: tuple[str, ...]) -> Choose:
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout

    def choose(point: Point) -> bool:
        mark = hashlib.sha256(f"{commit} {name} {point.way} {point.number}".encode()).digest()
        return point.way in ways and mark[0] % share == 0

    return choose


def _summary(results: list[Result], *, is_whole: bool) -> int:
    problems = sum(len(one.problems) for one in results)
    points = sum(sum(one.points.values()) for one in results)
    idle = [one for one in results if is_whole and not one.points and not one.problems]
    click.echo(f"{len(results)} scenarios, {points} points, {problems} broken promises")
    for one in idle:
        click.echo(f"BROKEN: {one.scenario} on {one.store} has no points")
    return 1 if problems or idle else 0


if __name__ == "__main__":
    main()
