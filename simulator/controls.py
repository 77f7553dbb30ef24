"""Controls for tests and scripts under ``/_simulator/``, a path AT can never have.

Bodies are JSON or a form (faults: JSON); a wrong one gets 400
``{"error": sentence}``::

    GET  ledger        ?to= &after=<item id> &limit=       {"items": [{"id", "to", "text", "from", "at",
                                                           "message_id"}]}: every text received, oldest first
    POST inbound       from, text, to?, linkId?, id?,      {"id", "from", "to"}: a phone sends; with ``times`` the
                       date?, networkCode?, cost?, times?  same callback is posted that often
    POST opt-out       phoneNumber, senderId               the telco blocks, the callback is owed
    POST opt-in        phoneNumber, senderId               the block is lifted, AT tells nobody
    POST subscription  phoneNumber, keyword, shortCode?,   the callback is owed
                       updateType?
    GET, POST faults   see ``fault_grammar``               all faults
    GET  requests      ?limit= &after=<item id>            counters, arrivals per second, the last POSTs
    GET  callbacks     ?limit=                             counters, and what is still owed
    POST reset                                             everything is forgotten, held connections are cut
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from . import handsets, inspection
from .fault_grammar import FaultError
from .handsets import HandsetError, HandsetText, phone_number, required
from .state import current_simulator

CALLERS = "anyone on this machine; pages from other sites are refused in app"

controls_bp = Blueprint("controls", __name__, url_prefix="/_simulator")

ITEMS_PER_CHUNK = 1000
PASSED_ON = ("date", "networkCode", "cost")


@controls_bp.errorhandler(HandsetError)
@controls_bp.errorhandler(FaultError)
def refuse(error: ValueError) -> ResponseReturnValue:
    return jsonify(error=str(error)), 400


@controls_bp.get("/ledger")
def ledger() -> Response:
    items = inspection.ledger_items(
        current_simulator().store,
        request.args.get("to"),
        request.args.get("after", 0, type=int),
        request.args.get("limit", -1, type=int),
    )
    return Response(stream_items(items), content_type="application/json")


@controls_bp.post("/inbound")
def inbound() -> ResponseReturnValue:
    simulator, given = current_simulator(), given_fields()
    optional = {"callback_id": given["id"]} if given.get("id") else {}
    sent = HandsetText(
        number=phone_number(given.get("from")),
        recipient=given.get("to") or simulator.config.shortcode,
        text=given.get("text", ""),
        link_id=given.get("linkId") or None,
        extras={name: given[name] for name in PASSED_ON if name in given},
        **optional,
    )
    inbound_id = handsets.send_from_handset(
        simulator, sent, times=whole_number(given.get("times", "1"), "times")
    )
    return jsonify({"id": inbound_id, "from": sent.number, "to": sent.recipient})


@controls_bp.post("/opt-out")
def opt_out() -> ResponseReturnValue:
    number, sender = blocked_pair()
    handsets.opt_out(current_simulator(), number, sender)
    return jsonify(phoneNumber=number, senderId=sender, is_blocked=True)


@controls_bp.post("/opt-in")
def opt_in() -> ResponseReturnValue:
    number, sender = blocked_pair()
    handsets.opt_in(current_simulator(), number, sender)
    return jsonify(phoneNumber=number, senderId=sender, is_blocked=False)


@controls_bp.post("/subscription")
def subscription() -> ResponseReturnValue:
    simulator, given = current_simulator(), given_fields()
    number, keyword = phone_number(given.get("phoneNumber")), required(given.get("keyword"), "keyword")
    short_code = given.get("shortCode") or simulator.config.shortcode
    update_type = given.get("updateType") or handsets.UPDATE_TYPES[0]
    handsets.subscribe(simulator, number, short_code, keyword, update_type)
    return jsonify(phoneNumber=number, shortCode=short_code, keyword=keyword, updateType=update_type)


@controls_bp.get("/faults")
def show_faults() -> ResponseReturnValue:
    return jsonify(current_simulator().faults.describe())


@controls_bp.post("/faults")
def set_faults() -> ResponseReturnValue:
    settings = request.get_json(silent=True)
    if not isinstance(settings, dict):
        raise FaultError('faults come as a JSON object such as {"hang_after_accept": {"count": 1}}')
    current_simulator().faults.set(settings)
    return show_faults()


@controls_bp.get("/requests")
def show_requests() -> ResponseReturnValue:
    limit, after = request.args.get("limit", 100, type=int), request.args.get("after", 0, type=int)
    return jsonify(inspection.request_report(current_simulator().store, limit, after))


@controls_bp.get("/callbacks")
def show_callbacks() -> ResponseReturnValue:
    return jsonify(
        inspection.callback_report(current_simulator().store, request.args.get("limit", 100, type=int))
    )


@controls_bp.post("/reset")
def reset() -> ResponseReturnValue:
    current_simulator().reset()
    return jsonify(is_reset=True)


def blocked_pair() -> tuple[str, str]:
    given = given_fields()
    return phone_number(given.get("phoneNumber")), required(given.get("senderId"), "senderId")


def given_fields() -> dict[str, str]:
    """The fields of a JSON object or a form, as text."""
    if not request.is_json:
        return request.form.to_dict()
    given = request.get_json(silent=True)
    if not isinstance(given, dict):
        raise HandsetError("The body is not a JSON object.")
    return {name: str(value) for name, value in given.items() if value is not None}


def whole_number(value: str, name: str) -> int:
    if not value.isdecimal():
        raise HandsetError(f"{name} is a whole number.")
    return int(value)


def stream_items(items: Iterator[dict[str, Any]]) -> Iterator[str]:
    """One JSON object in chunks of many items: a ledger of a million texts is not held in memory."""
    separator = ""
    yield '{"items":['
    while chunk := list(islice(items, ITEMS_PER_CHUNK)):
        yield separator + json.dumps(chunk, separators=(",", ":"))[1:-1]
        separator = ","
    yield "]}"
