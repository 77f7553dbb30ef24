"""The bare loop: the worker's POSTs over the hardened SDK, with as many threads, and no database.

`python -m benchmarks.support.bare_sender` reads what to do from its standard input and says what it took there.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from benchmarks.support.processes import CannotMeasure, peak_memory_mb, processor_seconds
from utils.sms_utils import ProviderClient

SENDER_ID = "SHOP"
EQUAL_TEXT = "Your parcel is here"


@dataclass(frozen=True, slots=True)
class Plan:
    """`count` numbers from `first` on (without the plus). `own_texts`: each gets a text, and so a POST, of its own."""

    base_url: str
    first: int
    count: int
    per_post: int
    lanes: int
    own_texts: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """`processor_seconds`: of the loop alone, all its threads."""

    started_at: float
    seconds: float
    processor_seconds: float
    peak_memory_mb: float


Post = tuple[str, list[str]]


def text_for(number: int) -> str:
    return f"Dear customer {number}, your parcel is here"


def send(plan: Plan) -> Taken:
    client = ProviderClient("sandbox", "benchmark-provider-key", plan.base_url, pool_size=plan.lanes)
    posts = _Shared(_posts(plan))
    processor, started_at, started = processor_seconds(os.getpid()), time.time(), time.perf_counter()
    with ThreadPoolExecutor(plan.lanes) as pool:
        lanes = [pool.submit(_lane, client, posts) for _ in range(plan.lanes)]
    seconds = time.perf_counter() - started
    for one in lanes:
        one.result()
    used = processor_seconds(os.getpid()) - processor
    return Taken(started_at, seconds, used, peak_memory_mb(os.getpid()))


def _posts(plan: Plan) -> Sequence[Post]:
    numbers = range(plan.first, plan.first + plan.count)
    if plan.own_texts:
        return [(text_for(one), [f"+{one}"]) for one in numbers]
    chunks = (numbers[start : start + plan.per_post] for start in range(0, plan.count, plan.per_post))
    return [(EQUAL_TEXT, [f"+{one}" for one in chunk]) for chunk in chunks]


class _Shared:
    def __init__(self, posts: Sequence[Post]) -> None:
        self._lock = threading.Lock()
        self._posts = iter(posts)

    def __iter__(self) -> Iterator[Post]:
        while True:
            with self._lock:
                post = next(self._posts, None)
            if post is None:
                return
            yield post


def _lane(client: ProviderClient, posts: _Shared) -> None:
    for text, recipients in posts:
        answer = client.send_texts(text, recipients, SENDER_ID)
        if any(one.outcome != "accepted" for one in answer.recipients.values()):
            raise CannotMeasure("the provider did not accept all")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(send(Plan(**json.load(sys.stdin))))))
