"""A provider that takes its time: what the worker's lanes make of it, and how full its POSTs are.

Each lane gets one answer in the provider's time, so lanes, latency and recipients a POST say what is possible. Measured
from the first claim to the last record, the end with too little work for all lanes included.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from benchmarks.support.results import Result, Table
from benchmarks.support.stages import PER_POST, Stage, staged
from benchmarks.support.stores import available_kinds

PROVIDER_SECONDS = 0.2


class Load(NamedTuple):
    """`texts` take turns; 0: each message has its own."""

    lanes: int
    messages: int
    texts: int
    aim: float

    @property
    def title(self) -> str:
        texts = f"{self.texts} texts" if self.texts else "texts of their own"
        return f"{self.messages:,} messages, {texts}, {self.lanes} lanes"

    @property
    def least_posts(self) -> int:
        if not self.texts:
            return self.messages
        return self.texts * math.ceil(self.messages / self.texts / PER_POST)

    @property
    def least_seconds(self) -> float:
        return math.ceil(self.least_posts / self.lanes) * PROVIDER_SECONDS


LOADS = (
    Load(lanes=16, messages=1_600, texts=0, aim=0.95),
    Load(lanes=4, messages=50_000, texts=1, aim=0.9),
    Load(lanes=4, messages=49_000, texts=7, aim=0.9),
    Load(lanes=4, messages=50_000, texts=100, aim=0.9),
)
MOST_POSTS = 1.2


def measure() -> Result:
    measured = {kind: [_measure(kind, load) for load in LOADS] for kind in available_kinds()}
    return Result(
        [_table(kind, figures) for kind, figures in measured.items()],
        {"stores": measured, "aims": {load.title: load.aim for load in LOADS}, "most_posts": MOST_POSTS},
        [
            f"the provider answers after {PROVIDER_SECONDS * 1000:.0f} ms; up to {PER_POST} recipients a POST",
            f"POSTs / least: how many POSTs for one that had to be; aim: at most {MOST_POSTS}",
            "each message was accepted with the answer to its own number, each number texted once",
        ],
    )


def _measure(kind: str, load: Load) -> dict[str, Any]:
    with staged(kind, load.lanes) as stage:
        stage.send(load.lanes * 4, texts=load.texts)  # not counted: what is done first is done slowly
        return _send(stage, load)


def _send(stage: Stage, load: Load) -> dict[str, Any]:
    sent, _ = stage.send(load.messages, load.texts, PROVIDER_SECONDS)
    return {
        "load": load.title,
        "seconds": sent.seconds,
        "of_latency": load.least_seconds / sent.seconds,
        "posts_of_least": stage.provider.seen().posts / load.least_posts,
        "processor_us": sent.processor_us,
        "peak_memory_mb": stage.worker_peak_memory_mb(),
    }


def _table(kind: str, measured: list[dict[str, Any]]) -> Table:
    rows = [
        [
            one["load"],
            f"{one['seconds']:.1f}",
            f"{one['of_latency']:.2f}, aim {load.aim}",
            f"{one['posts_of_least']:.2f}",
            f"{one['processor_us']:,.0f}",
            f"{one['peak_memory_mb']:.0f}",
        ]
        for load, one in zip(LOADS, measured, strict=True)
    ]
    columns = ["", "seconds", "of what latency allows", "POSTs / least", "CPU µs each", "peak MB"]
    return Table(f"A provider that takes {PROVIDER_SECONDS * 1000:.0f} ms, {kind}", columns, rows)
