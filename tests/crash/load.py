"""Clients that never give up: each call is repeated with its key until there is a definite answer."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.crash.numbers import Numbers
from tests.support.stack import API_KEY, SHORTCODE, Stack

ACCEPTED, REFUSED, UNKNOWN, OPEN = "accepted", "refused", "unknown", "open"
API, TRIGGER, INBOUND = "api", "trigger", "inbound"
CALL_SECONDS = 30
RETRY_SECONDS = 0.3
# A trigger whose process was killed holds its key for as long as its lease.
STILL_RUNNING_SECONDS = 2.0
MOST_UNSETTLED = 40
AUTHORISED = {"Authorization": f"Bearer {API_KEY}"}


@dataclass
class Promise:
    """One call and what the service said of it. `text` is in no other call."""

    kind: str
    key: str
    text: str
    recipients: list[str]
    request: dict[str, Any]
    outcome: str = OPEN
    answer: dict[str, Any] = field(default_factory=dict)
    tries: int = 0


class Load:
    """`pause_seconds`: between two calls of one client. `promises` grows while it runs."""

    def __init__(self, stack: Stack, seed: int, pause_seconds: float = 0.15) -> None:
        self.promises: list[Promise] = []
        self.answers: Counter[str] = Counter()
        self._stack = stack
        self._pause_seconds = pause_seconds
        self._numbers = Numbers()
        self._stopping = threading.Event()
        self._given_up = threading.Event()
        roles = [self._new_api_call] * 4 + [self._new_trigger] * 3 + [self._new_inbound]
        self._threads = [
            threading.Thread(target=self._client, args=(role, random.Random(f"{seed}-{place}")), daemon=True)
            for place, role in enumerate(roles)
        ]

    @property
    def shared_numbers(self) -> list[str]:
        return self._numbers.shared

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop_asking(self) -> None:
        """No new calls; those that are open go on until they have their answer."""
        self._stopping.set()

    @property
    def is_over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def give_up(self) -> None:
        """What has no answer now stays OPEN, and is judged so."""
        self._given_up.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 5)

    def _client(self, new_call: Callable[[random.Random], Promise], dice: random.Random) -> None:
        """Repeats what is open when its turn has come, and makes new calls meanwhile."""
        unsettled: list[tuple[float, Promise]] = []
        with requests.Session() as session:
            session.trust_env = False
            while not self._given_up.is_set() and (unsettled or not self._stopping.is_set()):
                due = [one for one in unsettled if one[0] <= time.monotonic()]
                for one in due:
                    unsettled.remove(one)
                calls = [promise for _, promise in due] or self._new_calls(new_call, dice, len(unsettled))
                for promise in calls:
                    wait = self._call(session, promise)
                    if promise.outcome == OPEN:
                        unsettled.append((time.monotonic() + wait, promise))
                time.sleep(dice.uniform(0, 2 * self._pause_seconds))

    def _new_calls(
        self, new_call: Callable[[random.Random], Promise], dice: random.Random, unsettled: int
    ) -> list[Promise]:
        if self._stopping.is_set() or unsettled >= MOST_UNSETTLED:
            return []
        promise = new_call(dice)
        self.promises.append(promise)
        return [promise]

    def _call(self, session: requests.Session, promise: Promise) -> float:
        """One try; seconds until the next where the answer was not definite."""
        promise.tries += 1
        try:
            response = session.request(**promise.request, timeout=CALL_SECONDS)
            answer = response.json()
        except (requests.RequestException, ValueError) as error:
            self.answers[f"{promise.kind} {type(error).__name__}"] += 1
            return RETRY_SECONDS
        self.answers[f"{promise.kind} {response.status_code}"] += 1
        promise.outcome = read_outcome(promise.kind, response.status_code, answer)
        promise.answer = answer
        if promise.outcome == OPEN and self._stopping.is_set() and is_not_sent(answer):
            promise.outcome = REFUSED
        return STILL_RUNNING_SECONDS if response.status_code == 409 else RETRY_SECONDS

    def _new_api_call(self, dice: random.Random) -> Promise:
        key, text = str(uuid.UUID(int=dice.getrandbits(128))), _new_text(dice)
        body: dict[str, Any] = {"to": self._recipients(dice), "text": text}
        if dice.random() < 0.1:
            body["on_unknown"] = "fail"
        request = {
            "method": "POST",
            "url": f"{self._stack.web_url}/v1/messages",
            "json": body,
            "headers": AUTHORISED | {"Idempotency-Key": key},
        }
        return Promise(API, key, text, body["to"], request)

    def _recipients(self, dice: random.Random) -> list[str]:
        kind = dice.random()
        if kind < 0.12:
            return [dice.choice(self._numbers.shared)]
        # More than ten are a batch, which goes by another road than singles.
        count = 1 if kind < 0.7 else dice.randint(2, 5) if kind < 0.92 else dice.randint(11, 40)
        return [self._numbers.fresh(dice) for _ in range(count)]

    def _new_trigger(self, dice: random.Random) -> Promise:
        key, text = str(uuid.UUID(int=dice.getrandbits(128))), _new_text(dice)
        kind = dice.random()
        count = 3 if kind > 0.9 else 1
        to = [self._numbers.fresh(dice) for _ in range(count)]
        if kind < 0.15:
            to = [dice.choice(self._numbers.shared)]
        route = dice.choice(("invoke-bulk-sms", "invoke-twoway-sms"))
        request = {
            "method": "GET",
            "url": f"{self._stack.web_url}/sms/{route}",
            "params": {"phone": ",".join(to), "message": text},
            "headers": AUTHORISED | {"Idempotency-Key": key},
        }
        return Promise(TRIGGER, key, text, to, request)

    def _new_inbound(self, dice: random.Random) -> Promise:
        time.sleep(0.5)
        key, text = str(uuid.UUID(int=dice.getrandbits(128))), _new_text(dice)
        sender = self._numbers.plain(dice)
        body = {"from": sender, "to": SHORTCODE, "text": text, "id": key, "times": dice.choice((1, 1, 3))}
        request = {"method": "POST", "url": f"{self._stack.simulator_url}/_simulator/inbound", "json": body}
        return Promise(INBOUND, key, text, [sender], request)


def _new_text(dice: random.Random) -> str:
    return f"Token {dice.getrandbits(64):016x}"


def read_outcome(kind: str, status: int, answer: dict[str, Any]) -> str:
    """OPEN: not definite, the call is repeated with its key."""
    if status in (200, 202):
        return ACCEPTED
    if kind == TRIGGER and status == 504:
        return UNKNOWN
    if status in (400, 401, 403, 404, 422) or answer.get("code") == "provider_refused":
        return REFUSED
    return OPEN


def is_not_sent(answer: dict[str, Any]) -> bool:
    """A trigger that certainly sent nothing, this time and before: its caller may stop asking.

    `busy` does not say so: it may come before the key is looked at.
    """
    return answer.get("code") == "provider_unavailable"
