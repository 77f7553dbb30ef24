"""AT's own endpoints under ``/version1``."""

import hmac
import random
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial

from flask import Blueprint, Response, request

from . import answers
from .acceptance import Acceptance, SendRequest, accept, write_refused_post
from .clock import iso_milliseconds
from .connections import cut_connection, hold_connection
from .parts import PRICE_PER_PART
from .state import Simulator, current_simulator

CALLERS = "whoever sends an apiKey header; the right one when the simulator was started with --api-key"

messaging_bp = Blueprint("messaging", __name__, url_prefix="/version1")

OPENING_BALANCE = Decimal(1_000_000)
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
REQUIRED_FIELDS = ("username", "to", "message")
INBOX_PAGE = 100
HANG_SECONDS = 120


# A word for the record of POSTs, and the answer, made only after the record is written: making it may take minutes.
Refusal = tuple[str, Callable[[], Response]]


@messaging_bp.post("/messaging")
def send_texts() -> Response:
    simulator = current_simulator()
    sending = SendRequest.from_form(request.form, time.time())
    if not wait(simulator, simulator.faults.fires("latency_seconds", sending.numbers) or 0):
        return cut_connection()
    refusal = refuse_call(simulator, sending) or refuse_send(simulator, sending)
    if refusal is None:
        return send(simulator, sending)
    result, make_answer = refusal
    write_refused_post(simulator.store, sending, result)
    return make_answer()


@messaging_bp.get("/messaging")
def fetch_inbox() -> Response:
    simulator = current_simulator()
    refusal = refuse_read(simulator)
    if refusal is not None:
        return refusal
    last_received_id = request.args.get("lastReceivedId", 0, type=int)
    rows = simulator.store.rows(
        "SELECT * FROM inbound WHERE id > ? ORDER BY id LIMIT ?", (last_received_id, INBOX_PAGE)
    )
    messages = [
        {
            "linkId": row["link_id"] or "",
            "text": row["text"],
            "to": row["recipient"],
            "id": row["id"],
            "date": iso_milliseconds(row["sent_at"]),
            "from": row["number"],
        }
        for row in rows
    ]
    return answers.answer({"SMSMessageData": {"Messages": messages}})


@messaging_bp.get("/user")
def show_balance() -> Response:
    simulator = current_simulator()
    refusal = refuse_read(simulator)
    spent = PRICE_PER_PART * int(simulator.store.totals()["billed_parts"])
    return refusal if refusal is not None else answers.balance_answer(OPENING_BALANCE - spent)


def has_right_key(simulator: Simulator) -> bool:
    given, expected = request.headers.get("apiKey"), simulator.config.api_key
    if not given:
        return False
    return expected is None or hmac.compare_digest(given.encode(), expected.encode())


def refuse_call(simulator: Simulator, sending: SendRequest) -> Refusal | None:
    """What is wrong with the call itself, before anything is looked at."""
    if not has_right_key(simulator) or simulator.faults.fires("bad_key", sending.numbers):
        return "bad_key", answers.authentication_refused
    if request.mimetype not in FORM_TYPES:
        return "unsupported_type", partial(answers.unsupported_type, request.mimetype or "none")
    for name in REQUIRED_FIELDS:
        if name not in request.form or (name == "message" and not request.form[name]):
            return "missing_field", partial(answers.missing_field, name)
    return None


def refuse_send(simulator: Simulator, sending: SendRequest) -> Refusal | None:
    """The faults that strike before AT accepts anything."""
    faults, numbers = simulator.faults, sending.numbers
    if faults.fires("reset_before_accept", numbers):
        return "reset_before_accept", cut_connection
    if (seconds := faults.fires("hang_before_accept", numbers)) is not None:
        return "hang_before_accept", partial(hang, simulator, seconds)
    if (retry_after := faults.fires("status_429", numbers)) is not None:
        return "status_429", partial(answers.too_many_requests, retry_after)
    if status := faults.fires("status_5xx", numbers):
        return "status_5xx", partial(answers.server_error, status)
    if faults.invalid_sender(sending.sender, numbers):
        return "invalid_sender", partial(answers.send_answer, "InvalidSenderId", [])
    if not numbers:
        return "no_recipients", partial(answers.send_answer, "InvalidPhoneNumber", [])
    return None


def refuse_read(simulator: Simulator) -> Response | None:
    faults = simulator.faults
    wait(simulator, faults.fires_on_read("latency_seconds") or 0)
    if not has_right_key(simulator) or faults.fires_on_read("bad_key"):
        return answers.authentication_refused()
    if (retry_after := faults.fires_on_read("status_429")) is not None:
        return answers.too_many_requests(retry_after)
    if status := faults.fires_on_read("status_5xx"):
        return answers.server_error(status)
    return None


def send(simulator: Simulator, sending: SendRequest) -> Response:
    acceptance = accept(simulator, sending)
    if acceptance.early_callbacks:
        simulator.courier.deliver_now(acceptance.early_callbacks)
    return interrupt_answer(simulator, sending, acceptance) or full_answer(simulator, acceptance)


def interrupt_answer(simulator: Simulator, sending: SendRequest, acceptance: Acceptance) -> Response | None:
    """The faults that strike when everything is accepted and only the answer is missing."""
    faults, numbers = simulator.faults, sending.numbers
    if faults.fires("reset_after_accept", numbers):
        return cut_connection()
    seconds = faults.fires("hang_after_accept", numbers)
    if seconds is not None or acceptance.hangs:
        return hang(simulator, HANG_SECONDS if seconds is None else seconds)
    if status := faults.fires("status_5xx_after_accept", numbers):
        return answers.server_error(status)
    return None


def full_answer(simulator: Simulator, acceptance: Acceptance) -> Response:
    faults, entries = simulator.faults, acceptance.entries
    if faults.is_set("drop_recipients"):
        entries = [entry for entry in entries if not faults.fires("drop_recipients", (entry["number"],))]
    if faults.fires("shuffle_answer", [entry["number"] for entry in entries]):
        random.SystemRandom().shuffle(entries)
    return answers.send_answer(acceptance.summary, entries)


def hang(simulator: Simulator, seconds: float) -> Response:
    epoch = simulator.store.epoch
    hold_connection(seconds, lambda: simulator.store.epoch != epoch)
    return cut_connection()


def wait(simulator: Simulator, seconds: float) -> bool:
    """False when a reset came in between: the call belongs to what was wiped."""
    epoch, deadline = simulator.store.epoch, time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and simulator.store.epoch == epoch:
        time.sleep(min(left, 0.1))
    return simulator.store.epoch == epoch
