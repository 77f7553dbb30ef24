"""A batch whose texts are all different, one recipient a POST: a real worker beside a bare loop, through one provider.

Each POST of ours stands between two durable writes of its own. Lanes that wait for the disk together share a
commit, so more lanes help, as they do with a provider that takes its time: measured with the default number of
lanes and with more, the bare loop with as many threads each time.
"""

from __future__ import annotations

from typing import Any

from benchmarks.support.provider import Manners
from benchmarks.support.results import Result, Spread, Table
from benchmarks.support.stages import Round, figures_of, ratio_of, staged
from benchmarks.support.stores import available_kinds

LANES = (4, 16)
TEXTS = 2_500
ROUNDS = 3
WARM_UP = 200
AIM = 0.7
SERVICE, BARE = "worker", "bare"


def measure() -> Result:
    measured = {
        kind: {str(lanes): _measure_lanes(kind, lanes) for lanes in LANES} for kind in available_kinds()
    }
    return Result(
        [_table(kind, figures) for kind, figures in measured.items()],
        {"stores": measured, "aims": {"of_bare": AIM}},
        [
            "bare loop: the same POSTs over the same SDK client in as many threads as the worker has lanes; it writes"
            " nothing down",
            "both sides have the same small provider with no latency, not the simulator, which would be what is"
            " measured; it takes its part of the same cores",
            f"{ROUNDS} rounds of {TEXTS:,} texts to each in turn; medians, in brackets the lowest and the highest;"
            " fewer than 100,000, for what waits behind costs nothing (batch_sending)",
            *(
                f"{kind}: {TEXTS * ROUNDS * len(LANES):,} messages accepted, each with the answer to its own number,"
                " each number texted once"
                for kind in measured
            ),
        ],
    )


def _measure_lanes(kind: str, lanes: int) -> dict[str, Any]:
    with staged(kind, lanes) as stage:
        stage.send(WARM_UP, texts=0)
        rounds: list[Round] = []
        bare_peak = 0.0
        for _ in range(ROUNDS):
            ours, held = stage.send(TEXTS, texts=0)
            stage.provider.begin(Manners())
            bare, taken = stage.send_bare(held.first, held.count, own_texts=True)
            rounds.append({SERVICE: ours, BARE: bare})
            bare_peak = max(bare_peak, taken.peak_memory_mb)
        return {
            SERVICE: figures_of(rounds, SERVICE) | {"peak_memory_mb": stage.worker_peak_memory_mb()},
            BARE: figures_of(rounds, BARE) | {"peak_memory_mb": bare_peak},
            "of_bare": ratio_of(rounds, SERVICE, BARE),
        }


def _table(kind: str, measured: dict[str, Any]) -> Table:
    rows = [
        [
            f"{name}, {lanes} lanes",
            f"{figures[name]['per_second']['median']:,.0f}",
            f"{figures[name]['processor_us']['median']:,.0f}",
            f"{Spread(**figures['of_bare']).as_text()}, aim {AIM}" if name == BARE else "",
            f"{figures[name]['peak_memory_mb']:.0f}",
        ]
        for lanes, figures in measured.items()
        for name in (SERVICE, BARE)
    ]
    columns = ["", "POSTs/s", "CPU µs each", "worker / this", "peak MB"]
    return Table(f"Texts of their own, one recipient a POST, {kind}", columns, rows)
