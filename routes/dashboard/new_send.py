"""Sending a file: a check that sends nothing, then the send itself, once however often the button is pressed."""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast
from zoneinfo import ZoneInfo

from flask import jsonify, render_template, request
from werkzeug.wrappers import Response

from messaging.batches import quote, upload
from messaging.batches.upload import AlreadySent, BatchRequest
from messaging.messages.way_out import WayOut
from routes.dashboard.blueprint import dashboard_bp, done
from routes.service import current_database, current_service
from utils.errors import InvalidInput
from utils.local_times import read_local_time
from utils.segments import gsm7_alternative, measure
from utils.texts import compose

CALLERS = "Operators with the role `sender` or more."
# A file of which more is refused is looked at first.
MAX_REFUSED = 0.2
LONGEST_PASTED = 200_000
FIELDS = ("numbers", "text", "sender_id", "name", "send_at", "max_cost", "phone_column", "once")


@dataclass(frozen=True, slots=True)
class Form:
    """`stream`: the file, or the pasted numbers as one."""

    asked: BatchRequest
    stream: BinaryIO
    once: str


@dashboard_bp.get("/sends/new")
def show_new_send() -> str:
    """The form: a file or numbers, a text, and when."""
    return _page({"once": secrets.token_hex(16)})


@dashboard_bp.post("/sends/check")
def check_send() -> str | tuple[str, int]:
    """Says what it would come to: recipients, refused rows, parts, cost. Nothing is sent."""
    try:
        form = _read()
        about = form.asked.text, form.asked.sender_id, form.asked.phone_column
        service = current_service()
        earlier = upload.sent_before(service.database, form.asked.text, form.stream)
        found = quote.quote_file(service.settings, service.database, form.stream, *about)
    except InvalidInput as error:
        return _page(request.form, problem=error.message), 400
    return _page(request.form, quote=found, seconds=_seconds(found, form.asked.text), earlier=earlier)


@dashboard_bp.post("/sends/new")
def begin_send() -> Response | tuple[str, int]:
    """Takes it in."""
    try:
        form = _read()
        settings = current_service().settings
        again = request.form.get("again") == "1"
        about = form.asked, form.stream, form.once
        answer = upload.receive(settings, current_database(), *about, may_repeat=again)
    except (InvalidInput, AlreadySent) as error:
        return _page(request.form, problem=error.message), 400
    return done("It is taken in. This page follows it.", "show_send", id=answer.body["id"])


@dashboard_bp.post("/sends/measure")
def measure_text() -> Response:
    """How long a text is, while it is typed."""
    try:
        text = _as_sent(request.form.get("text", ""), request.form.get("sender_id"))
    except InvalidInput as error:
        return jsonify({"problem": error.message})
    found = measure(text)
    said: dict[str, Any] = {"encoding": found.encoding, "parts": found.parts, "characters": len(text)}
    if found.spill is not None:
        said |= {"character": found.spill, "alternative": gsm7_alternative(found.spill)}
    return jsonify(said)


def _as_sent(text: str, sender_id: str | None) -> str:
    """An answer in a conversation names no sender, and has no way out. Raises InvalidInput."""
    if not text or sender_id is None:
        return compose(text)
    settings = current_service().settings
    return WayOut.of(settings, sender_id or settings.at_sender_id).composed(text)


def _read() -> Form:
    """Raises InvalidInput that names the field."""
    form, given = request.form, request.files.get("file")
    has_file = given is not None and bool(given.filename)
    stream = (
        cast(BinaryIO, given.stream) if given is not None and has_file else _pasted(form.get("numbers", ""))
    )
    name = form.get("name") or (given.filename if given is not None and has_file else None)
    asked = BatchRequest(
        form.get("text", ""),
        form.get("sender_id") or None,
        name,
        _when(form.get("send_at")),
        max_cost=form.get("max_cost") or None,
        phone_column=form.get("phone_column") or None,
        max_refused=MAX_REFUSED,
    )
    return Form(asked, stream, form.get("once") or secrets.token_hex(16))


def _pasted(numbers: str) -> BinaryIO:
    if not numbers.strip():
        raise InvalidInput("Choose a file, or paste numbers", code="missing_file", field="file")
    if len(numbers) > LONGEST_PASTED:
        raise InvalidInput("So many numbers come as a file", code="too_long", field="numbers")
    lines = (one.strip() for line in numbers.splitlines() for one in line.replace(";", ",").split(","))
    return io.BytesIO("\n".join(["phone", *(one for one in lines if one)]).encode())


def _when(typed: str | None) -> datetime | None:
    """In TIME_ZONE."""
    zone = ZoneInfo(current_service().settings.time_zone)
    return read_local_time(typed, zone).astimezone(UTC) if typed else None


def _seconds(found: dict[str, Any], text: str) -> float:
    settings = current_service().settings
    going = found["recipients"] - found["opted_out"] - found["no_consent"]
    is_personal = "{{" in text
    posts = going if is_personal else -(-going // settings.at_max_recipients)
    return quote.least_seconds(settings, going, posts)


def _page(form: Any, **known: Any) -> str:
    typed = {name: form.get(name, "") for name in FIELDS}
    return render_template(
        "dashboard/new_send.html",
        typed=typed,
        settings=current_service().settings,
        max_refused=MAX_REFUSED,
        **known,
    )
