"""Every order of two pieces of work on PostgreSQL with at most so many switches between them.

    python -m tests.proof.orders [--switches N] [--most N] [--pair NAME]

Exit code 1 where an order breaks a promise.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import click

from messaging.storage.database import Database
from tests.proof.interleaving import Stage, Trace, explore
from tests.proof.pairs import PAIRS, Pair, Scene
from tests.proof.stores import PostgresqlStore
from tests.support.delivery import Clock, live_settings

NAMES = [one.name for one in PAIRS]


@dataclass(frozen=True)
class Limits:
    switches: int
    most: int
    until_first_problem: bool


@click.command()
@click.option(
    "--switches", default=3, show_default=True, help="from one that could have gone on to the other"
)
@click.option("--most", default=3000, show_default=True, help="orders of each pair")
@click.option("--pair", "names", multiple=True, type=click.Choice(NAMES), default=NAMES)
@click.option("--until-first-problem", is_flag=True)
def main(switches: int, most: int, names: tuple[str, ...], until_first_problem: bool) -> None:
    """Plays each pair in every order, and says what was wrong in which."""
    logging.disable()
    store = PostgresqlStore()
    try:
        limits = Limits(switches, most, until_first_problem)
        broken = sum(_play_all(pair, store, limits) for pair in PAIRS if pair.name in names)
    finally:
        store.close()
    sys.exit(1 if broken else 0)


def _play_all(pair: Pair, store: PostgresqlStore, limits: Limits) -> int:
    began_at = time.monotonic()
    store.empty()
    orders = broken = longest = 0
    with _scene(store, pair) as scene:
        stage = Stage(store.url)
        try:
            for trace, problems in _orders(pair, scene, stage, store, limits):
                orders += 1
                broken += bool(problems)
                longest = max(longest, len(trace.log))
                for what in problems[:1]:
                    click.echo(f"  BROKEN: {pair.name}, {_in_turns(trace)}: {what}")
                if problems and limits.until_first_problem:
                    break
        finally:
            stage.close()
    seconds = time.monotonic() - began_at
    click.echo(
        f"{pair.name:24} {orders:5} orders of up to {longest} steps, {broken} broken ({seconds:.1f} s)"
    )
    return broken


def _orders(
    pair: Pair, scene: Scene, stage: Stage, store: PostgresqlStore, limits: Limits
) -> Iterator[tuple[Trace, list[str]]]:
    def play(prefix: tuple[int, ...]) -> Trace:
        store.empty()
        pair.set_up(scene)
        works: dict[str, Callable[[], Any]] = {
            "one": partial(pair.one, scene),
            "other": partial(pair.other, scene),
        }
        return stage.play(works, prefix)

    # The first meets a new connection, which asks more.
    play(())
    for trace in explore(play, limits.switches, limits.most):
        failed = [repr(one) for one in trace.results if isinstance(one, Exception)]
        failed += ["they waited for each other"] * trace.deadlocks
        yield trace, failed or list(pair.check(scene, trace))


def _in_turns(trace: Trace) -> str:
    """`one 3, other 12`: who took so many steps, in turn."""
    turns = [(name, len(list(steps))) for name, steps in groupby(trace.log, key=lambda step: step[0])]
    return ", ".join(f"{name} {count}" for name, count in turns)


@contextmanager
def _scene(store: PostgresqlStore, pair: Pair) -> Iterator[Scene]:
    """As of three processes: the two, and one that looks."""
    url = store.url.replace("postgresql://", "postgresql+psycopg://", 1)
    databases = one, other, own = [Database(url, pool_size=2) for _ in range(3)]
    Clock(other).step(seconds=pair.ahead.total_seconds())
    try:
        settings = live_settings(store.url, "http://127.0.0.1:9", witness_dir=str(store.folder / "witness"))
        yield Scene(settings, (one, other), own)
    finally:
        for each in databases:
            each.close()


if __name__ == "__main__":
    main()
