"""The page with the phones: works as plain forms, and live with its script."""

from urllib.parse import quote

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from . import handsets, knowledge
from .conversations import shown_phones
from .handsets import HandsetError, HandsetText, phone_number, required
from .state import Simulator, current_simulator

CALLERS = "anyone on this machine; posts from other sites are refused in app"

page_bp = Blueprint("page", __name__)

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

FIRST_PHONE = "254711000111"
SPECIAL_NUMBERS = (
    ("0401 – 0409, 0500 – 0502", "refused with that status code"),
    ("0900", "accepted, then reported Failed"),
    ("0901", "accepted, then reported AbsentSubscriber"),
    ("0902", "received, but no report ever comes"),
    ("0903", "received, but your service gets no answer"),
    ("anything else", "received and reported"),
)


@page_bp.after_request
def add_security_headers(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = CONTENT_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@page_bp.get("/")
def phones() -> ResponseReturnValue:
    simulator = current_simulator()
    knowledge.learn(simulator)
    response = make_response()
    response.set_etag(f"{simulator.store.revision}")
    response.cache_control.no_cache = True
    if not request.if_none_match.contains_weak(response.get_etag()[0] or ""):
        response.set_data(rendered_phones(simulator))
    return response.make_conditional(request)


@page_bp.post("/phones/text")
def send_text() -> ResponseReturnValue:
    simulator, form = current_simulator(), request.form
    sent = HandsetText(
        phone_number(form.get("from")),
        form.get("to", "").strip() or simulator.config.shortcode,
        required(form.get("text"), "The text"),
    )
    handsets.send_from_handset(simulator, sent)
    return redirect(url_for("page.phones"), 303)


@page_bp.post("/phones/stop")
def stop_at_telco() -> ResponseReturnValue:
    number, sender = named_sender()
    handsets.opt_out(current_simulator(), number, sender)
    return redirect(url_for("page.phones"), 303)


@page_bp.post("/phones/allow")
def allow_at_telco() -> ResponseReturnValue:
    number, sender = named_sender()
    handsets.opt_in(current_simulator(), number, sender)
    return redirect(url_for("page.phones"), 303)


@page_bp.post("/phones/clear-faults")
def clear_faults() -> ResponseReturnValue:
    faults = current_simulator().faults
    faults.set(dict.fromkeys(faults.active_names(), False))
    return redirect(url_for("page.phones"), 303)


@page_bp.errorhandler(HandsetError)
def show_problem(error: HandsetError) -> ResponseReturnValue:
    return Response(rendered_phones(current_simulator(), problem=str(error)), 400)


def named_sender() -> tuple[str, str]:
    return phone_number(request.form.get("phoneNumber")), required(request.form.get("senderId"), "The sender")


def rendered_phones(simulator: Simulator, problem: str = "") -> str:
    find = request.args.get("find", "")
    return render_template(
        "phones.html",
        phones=shown_phones(simulator, find),
        find=find,
        problem=problem,
        typed=request.form,
        totals=simulator.store.totals(),
        owed=simulator.store.row("SELECT count(*) AS n FROM callbacks")["n"],
        faults=simulator.faults.active_names(),
        config=simulator.config,
        first_command=first_command(simulator.config.service_url),
        special_numbers=SPECIAL_NUMBERS,
    )


def first_command(service_url: str) -> str:
    """The line that makes a first text arrive on this page."""
    message = quote("Habari from my service")
    return f"curl '{service_url.rstrip('/')}/sms/invoke-bulk-sms?phone={FIRST_PHONE}&message={message}'"
