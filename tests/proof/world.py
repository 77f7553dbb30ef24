"""The service in one process, with its clocks, and what somebody outside was answered."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from werkzeug.test import TestResponse

from app import create_app
from messaging.batches.importer import import_next
from messaging.batches.upkeep import BatchUpkeep
from messaging.callbacks.received import apply_received
from messaging.forwarding import delivery
from messaging.operations import sweep
from messaging.operations.recovery import Recoverer
from messaging.sending import pauses, sender
from messaging.sending.sender import MessageSender
from messaging.service import Service
from messaging.storage.database import Database
from tests.proof.processes import Say
from tests.proof.provider import Provider
from tests.proof.stores import Store
from tests.support.delivery import live_settings
from tests.support.web import API_KEY, TOKEN, Caller
from utils.errors import Recovering

SHORTCODE = "20880"
SENDER = "KIOSK"


class Time:
    """All clocks of this process. The database's own, by which PostgreSQL dates callbacks, stays as it is."""

    def __init__(self) -> None:
        self.passed = timedelta()
        gettime, monotonic = time.clock_gettime, time.monotonic
        time.clock_gettime = lambda which: gettime(which) + self.passed.total_seconds()
        time.monotonic = lambda: monotonic() + self.passed.total_seconds()

    def attach(self, database: Database) -> None:
        wall = database.clocks.wall
        database.clocks.wall = lambda connection: wall(connection) + self.passed

    def begin_anew(self) -> None:
        self.passed = timedelta()

    def pass_by(self, **duration: float) -> None:
        self.passed += timedelta(**duration)


TIME = Time()


class World:
    """`heard`: what the process before this one was answered, and told of, in order."""

    def __init__(self, store: Store, provider: Provider, **overrides: object) -> None:
        self.store = store
        self.provider = provider
        self.settings = live_settings(
            store.url,
            provider.url,
            api_keys=(API_KEY,),
            webhook_tokens=(TOKEN,),
            at_shortcode=SHORTCODE,
            log_level="CRITICAL",
            witness_dir=str(store.folder / "witness"),
            **{name: _filled_in(value, provider) for name, value in overrides.items()},
        )
        self.app = create_app(self.settings)
        self.service: Service = self.app.extensions["sms"]
        self.database = self.service.database
        # A wake-up is a hint to another process; who looks is the scenario's to say.
        self.database.wake = _wake_nobody
        self.caller = Caller(self.app)
        TIME.attach(self.database)
        self.heard: list[dict[str, Any]] = []
        self.say: Say = lambda *_, **__: None

    def call(self, key: str, work: Callable[[], TestResponse]) -> TestResponse:
        """One call from outside; its answer is told outside as soon as it is there."""
        answer = work()
        self.say("answered", key=key, status=answer.status_code, answer=answer.get_json(silent=True))
        return answer

    def send(self, key: str, to: list[str], text: str, **more: Any) -> TestResponse:
        body = {"to": to, "text": text, **more}
        return self.call(
            key, lambda: self.caller.post("/v1/messages", body, headers={"Idempotency-Key": key})
        )

    def trigger(self, key: str, to: list[str], text: str) -> TestResponse:
        headers, query = {"Idempotency-Key": key}, {"phone": ",".join(to), "message": text}
        return self.call(key, lambda: self.caller.get("/sms/invoke-bulk-sms", headers, **query))

    def text(self, inbound_id: str, by: list[str], text: str) -> TestResponse:
        """A person texts us."""
        fields = {"from": by[0], "to": SHORTCODE, "text": text, "id": inbound_id}
        return self.call(inbound_id, lambda: self.caller.callback("/sms/twoway", fields))

    def callback(self, path: str, fields: dict[str, str]) -> TestResponse:
        return self.call(json.dumps([path, fields]), lambda: self.caller.callback(f"/sms/{path}", fields))

    def report(self, provider_id: str, number: str, word: str = "Success") -> TestResponse:
        return self.callback("delivery-reports", {"id": provider_id, "status": word, "phoneNumber": number})

    def sender(self) -> MessageSender:
        """It looks for urgent texts before each POST, not at most so often: so that all runs take the same steps."""
        sender.URGENT_LOOK_SECONDS = 0.0
        return MessageSender(
            self.settings,
            self.database,
            self.service.provider,
            apply_reports=partial(apply_received, self.database, self.settings),
        )

    def work(self) -> None:
        """What a worker does of each kind, once; where the database went backwards, after its recovery."""
        recoverer = Recoverer(self.settings, self.database, self.service.provider)
        while recoverer.step():
            pass
        try:
            self._work()
        except Recovering:
            while recoverer.step():
                pass
            self._work()

    def _work(self) -> None:
        sweep.sweep(self.database, self.settings)
        while import_next(self.database, self.settings, lambda: False):
            pass
        pauses.probe(self.database, self.service.provider)
        self.sender().run_until_idle()
        self.hear_reports()

    def hear_reports(self) -> None:
        """And what follows from them."""
        apply_received(self.database, self.settings)
        BatchUpkeep(self.database).look()
        self.forward()

    def forward(self) -> None:
        forwarder = delivery.build_forwarder(self.settings, self.database, threading.Event())
        if forwarder is not None:
            forwarder.run_until_idle()

    def close(self) -> None:
        """Nothing is open and no thread runs, so that this process may fork."""
        self.service.callback_receiver.stop()
        self.service.provider.close()
        self.database.close()


def _filled_in(value: object, provider: Provider) -> object:
    return value.format(provider=provider.url) if isinstance(value, str) else value


def _wake_nobody() -> None:
    return None
