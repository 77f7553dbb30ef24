"""What it costs to note a POST outside the database before its bytes leave, beside the hashes alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime

from benchmarks.support.results import Result, Spread, Table
from messaging.sending.claim import Claim
from messaging.sending.start_post import Posting
from messaging.sending.witness import Witness
from messaging.storage.database import Database
from messaging.storage.identity import Identity, new_token
from utils.settings import Settings

ROUNDS, POSTS = 9, 500
SIZES = (1, 500)
IDENTITY = Identity("0" * 32, bytes(32))


def measure() -> Result:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_url=f"sqlite:///{folder}/sms.db", witness_dir=f"{folder}/witness")
        witness = Witness(settings, Database(settings.sqlalchemy_url))
        found = {size: _measure_size(witness, size) for size in SIZES}
        witness.close()
    rows = [
        [f"{size} recipients", spreads["note"].as_text(1), spreads["hashes"].as_text(1)]
        for size, spreads in found.items()
    ]
    return Result(
        [
            Table(
                "A POST noted in the witness, in microseconds",
                ["POST of", "lock and line", "hashes alone"],
                rows,
            )
        ],
        {
            str(size): {name: one.as_json() for name, one in spreads.items()}
            for size, spreads in found.items()
        },
        [f"{ROUNDS} rounds of {POSTS} POSTs, the file synced each second by another thread; medians"],
    )


def _measure_size(witness: Witness, size: int) -> dict[str, Spread]:
    posting = _posting(size)
    people = list(posting.claim.recipients)

    def note() -> None:
        with witness.turn():
            witness.note(posting)

    return {
        "note": Spread.of([_microseconds(note) for _ in range(ROUNDS)]),
        "hashes": Spread.of([_microseconds(lambda: IDENTITY.digests(people)) for _ in range(ROUNDS)]),
    }


def _posting(size: int) -> Posting:
    people = {f"+2547{number:08d}": 1_000_000 + number for number in range(size)}
    claim = Claim(1, "Hello from the benchmark", "ACME", None, people, urgent=False, token=new_token())
    return Posting(claim, datetime.now(UTC), 0.0, IDENTITY)


def _microseconds(work: Callable[[], object]) -> float:
    began_at = time.perf_counter()
    for _ in range(POSTS):
        work()
    return (time.perf_counter() - began_at) / POSTS * 1e6
