"""A batch of one text, 500 recipients a POST: a real worker beside a bare loop, through one provider.

The worker's pace is raised out of the way. Its clock runs from its first claim until nothing is queued or under way;
then each message has to be `accepted` with the answer to its own number, and each number to have got one text.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select

from benchmarks.support.provider import Manners
from benchmarks.support.queued import first_attempt
from benchmarks.support.results import Result, Spread, Table
from benchmarks.support.stages import PER_POST, Round, Stage, figures_of, ratio_of, staged
from benchmarks.support.stores import available_kinds
from messaging.storage import tables
from messaging.storage.database import Database

LANES = 4
MESSAGES = 100_000
ROUNDS = 3
AIM = 0.25
# What is queued beside those that are sent and measured.
QUEUED = (10_000, 100_000, 1_000_000)
PART = 20_000
PARTS = 3
PROVIDER_SECONDS = 0.2
LATE_MESSAGES = 50_000
# Each lane gets one answer in that time, for a POST of so many.
ALLOWED_PER_SECOND = LANES / PROVIDER_SECONDS * PER_POST
LATE_AIM = 0.8
SERVICE, BARE = "worker", "bare"


def measure() -> Result:
    measured = {kind: _measure_store(kind) for kind in available_kinds()}
    return Result(
        [_speed_table(measured), _growth_table(measured), _late_table(measured)],
        {
            "stores": measured,
            "aims": {"of_bare": AIM, "of_allowed": LATE_AIM},
            "allowed_per_second": ALLOWED_PER_SECOND,
        },
        [
            f"bare loop: the same POSTs over the same SDK client in {LANES} threads, as many as the worker has lanes;"
            " it writes nothing down",
            "both sides have the same small provider, not the simulator, which would be what is measured;"
            " it takes its part of the same cores",
            f"{ROUNDS} rounds of {MESSAGES:,} messages to each in turn; medians, in brackets lowest and highest",
            f"growth: {PARTS} stretches of {PART:,} messages, sent from a batch that has so many more",
            f"late answers: {LANES} lanes / {PROVIDER_SECONDS} s x {PER_POST} messages = {ALLOWED_PER_SECOND:,.0f} a"
            f" second; {LATE_MESSAGES:,} messages, from the first claim to the last record",
            *(
                f"{kind}: {one['verified']:,} messages accepted, each with the answer to its own number, each number"
                " texted once"
                for kind, one in measured.items()
            ),
        ],
    )


def _measure_store(kind: str) -> dict[str, Any]:
    with staged(kind, LANES) as stage:
        stage.send(PER_POST * LANES)  # not counted: what is done first is done slowly
        late, _ = stage.send(LATE_MESSAGES, latency_seconds=PROVIDER_SECONDS)
        rounds, bare_peak = _play_rounds(stage)
        by_queued = {str(count): _measure_growth(stage, count) for count in QUEUED}
        return {
            SERVICE: figures_of(rounds, SERVICE) | {"peak_memory_mb": stage.worker_peak_memory_mb()},
            BARE: figures_of(rounds, BARE) | {"peak_memory_mb": bare_peak},
            "of_bare": ratio_of(rounds, SERVICE, BARE),
            "by_queued": by_queued,
            "late_answers": {
                "per_second": late.per_second,
                "of_allowed": late.per_second / ALLOWED_PER_SECOND,
            },
            "verified": LATE_MESSAGES + ROUNDS * MESSAGES + sum(one["sent"] for one in by_queued.values()),
        }


def _play_rounds(stage: Stage) -> tuple[list[Round], float]:
    rounds, bare_peak = [], 0.0
    for _ in range(ROUNDS):
        ours, held = stage.send(MESSAGES)
        stage.provider.begin(Manners())
        bare, taken = stage.send_bare(held.first, held.count)
        rounds.append({SERVICE: ours, BARE: bare})
        bare_peak = max(bare_peak, taken.peak_memory_mb)
    return rounds, bare_peak


def _measure_growth(stage: Stage, others: int) -> dict[str, Any]:
    """What a message costs while so many others are queued."""
    held = stage.hold(PART * PARTS + others)
    sent = stage.send_beginning(held, PART * PARTS)
    speeds = _speeds(stage.database, first_attempt(stage.database, held))
    return {
        "per_second": Spread.of(speeds).as_json(),
        "processor_us": sent.processor_us,
        "sent": sent.messages,
    }


def _speeds(database: Database, first_id: int) -> list[float]:
    """Messages a second of each stretch, by the times of the records."""
    query = (
        select(tables.attempts.c.finished_at, tables.attempts.c.claimed_at, tables.attempts.c.message_count)
        .where(tables.attempts.c.id >= first_id, tables.attempts.c.state == "recorded")
        .order_by(tables.attempts.c.finished_at)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    began, sent, speeds = min(row.claimed_at for row in rows), 0, []
    for row in rows:
        sent += row.message_count
        if sent >= PART:
            speeds.append(sent / ((row.finished_at - began) / timedelta(seconds=1)))
            began, sent = row.finished_at, 0
    return speeds[:PARTS]


def _speed_table(measured: dict[str, Any]) -> Table:
    rows = [
        [
            f"{kind}, {name}",
            f"{figures[name]['per_second']['median']:,.0f}",
            f"{figures[name]['processor_us']['median']:.1f}",
            f"{Spread(**figures['of_bare']).as_text()}, aim {AIM}" if name == BARE else "",
            f"{figures[name]['peak_memory_mb']:.0f}",
        ]
        for kind, figures in measured.items()
        for name in (SERVICE, BARE)
    ]
    columns = ["", "messages/s", "CPU µs each", "worker / this", "peak MB"]
    return Table(f"Sending {MESSAGES:,} messages, {PER_POST} a POST, no latency", columns, rows)


def _growth_table(measured: dict[str, Any]) -> Table:
    rows = [
        [
            f"{kind}, {int(queued):,} queued",
            Spread(**figures["per_second"]).as_text(0),
            f"{figures['processor_us']:.1f}",
            f"{one['by_queued'][str(QUEUED[0])]['per_second']['median'] / figures['per_second']['median']:.2f}",
        ]
        for kind, one in measured.items()
        for queued, figures in one["by_queued"].items()
    ]
    columns = ["", "messages/s", "CPU µs each", f"cost / with {QUEUED[0]:,}"]
    return Table("What a message costs while others are queued", columns, rows)


def _late_table(measured: dict[str, Any]) -> Table:
    rows = [
        [
            kind,
            f"{figures['late_answers']['per_second']:,.0f}",
            f"{ALLOWED_PER_SECOND:,.0f}",
            f"{figures['late_answers']['of_allowed']:.2f}, aim {LATE_AIM}",
        ]
        for kind, figures in measured.items()
    ]
    title = f"Answers after {PROVIDER_SECONDS * 1000:.0f} ms, {LANES} lanes"
    return Table(title, ["", "messages/s", "latency allows", "of that"], rows)
