"""The forwarding thread of a worker: claims events, posts them, records what came of it; apart from all sending."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from messaging.forwarding import outbox, receiver_state
from messaging.forwarding.outbox import DueEvent
from messaging.storage.database import Database
from utils.settings import Settings
from utils.webhook_client import WebhookAnswer, WebhookClient

THREADS = 8
# Half of the lease: the rest is for the attempts under way and the record.
LONGEST_ROUND_SECONDS = outbox.LEASE.total_seconds() / 2


def build_forwarder(settings: Settings, database: Database, stopping: threading.Event) -> Forwarder | None:
    """None where FORWARD_URL is not set."""
    client = WebhookClient.from_settings(settings)
    if client is None or settings.forward_url is None:
        return None
    return Forwarder(database, client, receiver_state.receiver_of(settings.forward_url), stopping)


class Forwarder:
    """`receiver` names the URL, see `forward_state.receiver_of`. Several may run, in any number of processes."""

    def __init__(
        self, database: Database, client: WebhookClient, receiver: str, stopping: threading.Event
    ) -> None:
        self._database = database
        self._client = client
        self._receiver = receiver
        self._stopping = stopping

    def run_until_idle(self) -> int:
        """How many attempts were made."""
        attempts = 0
        while not self._stopping.is_set() and outbox.has_due(self._database, self._receiver):
            due = outbox.claim(self._database, self._receiver)
            if not due:
                break
            answers = self._post_all(due)
            outbox.record(self._database, self._receiver, due, answers)
            attempts += len(answers)
        return attempts

    def _post_all(self, due: Sequence[DueEvent]) -> dict[int, WebhookAnswer]:
        """By row id, without those that the time or a stop left untried."""
        waiting: SimpleQueue[DueEvent] = SimpleQueue()
        for one in due:
            waiting.put(one)
        ends_at = time.monotonic() + LONGEST_ROUND_SECONDS
        threads = min(THREADS, len(due))
        with ThreadPoolExecutor(threads, thread_name_prefix="forward") as pool:
            rounds = [pool.submit(self._post_some, waiting, ends_at) for _ in range(threads)]
        return {row_id: answer for one in rounds for row_id, answer in one.result().items()}

    def _post_some(self, waiting: SimpleQueue[DueEvent], ends_at: float) -> dict[int, WebhookAnswer]:
        """Stops at the first sign that the receiver is down: the rest then costs it, and them, no attempt."""
        answers = {}
        with self._client.line() as line:
            while not self._stopping.is_set() and time.monotonic() < ends_at:
                try:
                    one = waiting.get_nowait()
                except Empty:
                    break
                answer = answers[one.row_id] = line.post(one.event_id, one.body)
                if answer.is_overloaded:
                    break
        return answers
