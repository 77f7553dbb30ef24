"""The routes under `/sms`: the two GET triggers, and what Africa's Talking calls back."""

from __future__ import annotations

import sys
from typing import Any

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState

from messaging.callbacks.receive import LARGEST_BODY_BYTES
from messaging.reports.views import applied_reports
from routes.guards import refuses_prefetch, requires_trigger_key, requires_webhook_token, trigger_slot
from routes.service import current_service
from routes.trigger_requests import answer_trigger, read_trigger
from utils.errors import MissingShortcode

CALLERS = "Triggers: holders of an API key. Callbacks: whoever has the token of their URL. `/sms/`: anyone."

MOST_DROPPED_BYTES = 16 * 1024 * 1024
DROPPED_AT_ONCE = 64 * 1024
TRIGGERS = ("invoke_bulk_sms", "invoke_twoway_sms")

sms_bp = Blueprint("sms", __name__, url_prefix="/sms")


@sms_bp.get("/")
def show_status() -> dict[str, str]:
    """Says that the service is there."""
    return {"service": "sms", "status": "ready"}


@sms_bp.get("/invoke-bulk-sms", strict_slashes=False, provide_automatic_options=False)
@refuses_prefetch
@requires_trigger_key
def invoke_bulk_sms() -> dict[str, Any]:
    """Sends `message` to `phone` now, from the bulk sender.

    `phone` may carry `+`, `%2B` or spaces, and several numbers: repeated, or with commas between. The key may
    stand in `api_key`. With `idempotency_key` (or the header `Idempotency-Key`) a second call sends nothing.
    """
    return _send_now(current_service().settings.at_sender_id)


@sms_bp.get("/invoke-twoway-sms", strict_slashes=False, provide_automatic_options=False)
@refuses_prefetch
@requires_trigger_key
def invoke_twoway_sms() -> dict[str, Any]:
    """Sends as `/sms/invoke-bulk-sms` does, but from the shortcode, so that the recipient can answer."""
    shortcode = current_service().settings.at_shortcode
    if shortcode is None:
        raise MissingShortcode("This needs a shortcode: set AT_SHORTCODE")
    return _send_now(shortcode)


@sms_bp.post("/twoway", strict_slashes=False)
@requires_webhook_token
def receive_inbound() -> Response:
    """Takes a text that a person sent to us."""
    return _receive("inbound", "GOOD")


@sms_bp.post("/delivery-reports", strict_slashes=False)
@requires_webhook_token
def receive_delivery_report() -> Response:
    """Takes a report on what became of a text."""
    return _receive("report", "OK")


@sms_bp.get("/delivery-reports", strict_slashes=False)
@requires_webhook_token
def show_applied_reports() -> dict[str, Any]:
    """Says which reports with these ids have taken effect: the answer to a report says that it is stored."""
    return {"applied": applied_reports(current_service().database, request.args.getlist("id"))}


@sms_bp.post("/opt-out", strict_slashes=False)
@requires_webhook_token
def receive_opt_out() -> Response:
    """Takes the news that a person opted out at the network."""
    return _receive("opt_out", "OK")


@sms_bp.post("/subscription", strict_slashes=False)
@requires_webhook_token
def receive_subscription() -> Response:
    """Takes a change of a premium subscription."""
    return _receive("subscription", "OK")


def _send_now(sender_id: str | None) -> dict[str, Any]:
    asked = read_trigger(request, current_service().settings.default_region)
    with trigger_slot():
        result = current_service().triggers.send_now(
            asked.message, asked.recipients, sender_id, asked.idempotency_key
        )
    return answer_trigger(asked, result)


def _receive(kind: str, answer: str) -> Response:
    """200 means durable. Anything else makes AT call again, every minute for up to twelve hours."""
    body = _read_body(LARGEST_BODY_BYTES + 1)
    is_longer = len(body) > LARGEST_BODY_BYTES
    if is_longer:
        _drop_rest()
    current_service().callback_receiver.receive(
        kind, body[:LARGEST_BODY_BYTES], request.content_type, truncated=is_longer
    )
    return Response(answer, mimetype="text/plain")


def _read_body(most: int) -> bytes:
    """The raw body, as far as it is wanted: to refuse a long one with 413 would only make it come again."""
    request.max_content_length = sys.maxsize  # None would mean the app's own limit
    pieces: list[bytes] = []
    # A raw stream may give less than was asked for, long before its end.
    while most > 0 and (piece := request.stream.read(most)):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def _drop_rest() -> None:
    """gunicorn closes a connection on which something is left to read: a callback sent next on it would be lost."""
    dropped = 0
    while dropped < MOST_DROPPED_BYTES and (piece := request.stream.read(DROPPED_AT_ONCE)):
        dropped += len(piece)


@sms_bp.record
def _never_send_on_head(state: BlueprintSetupState) -> None:
    """Werkzeug lets HEAD in wherever GET is; proxies and link checkers use it freely."""
    for rule in state.app.url_map.iter_rules():
        if rule.endpoint.split(".")[-1] in TRIGGERS and rule.methods:
            rule.methods.discard("HEAD")
