"""Lists that are looked at now and then: what is held, opt-outs, callbacks, health."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, BinaryIO, cast

from flask import g, render_template, request
from werkzeug.wrappers import Response

from messaging.access.actor import required_name
from messaging.access.operators import ADMIN
from messaging.callbacks.replay import replay
from messaging.callbacks.views import list_callbacks, require_callback
from messaging.consent import csv_export, csv_import
from messaging.consent import views as opt_out_views
from messaging.consent.views import LedgerFilters
from messaging.operations import doctor, health_details, held
from messaging.sending import pauses
from routes.dashboard.blueprint import dashboard_bp, done, read_phone, read_since
from routes.expensive_calls import expensive_download, expensive_read
from routes.service import current_database, current_service
from utils.errors import InvalidInput, InvalidPhone

CALLERS = (
    "Operators; an `approver` releases and cancels, an `admin` lifts opt-outs and applies callbacks again."
)
PAGE = 50
OPERATOR = "operator"
_TOKEN = re.compile(r"token=[^\s)]+")


@dashboard_bp.get("/held")
def show_held() -> str:
    """What waits for a person."""
    found = held.list_held(
        current_database(), request.args.get("kind") or None, request.args.get("cursor"), PAGE
    )
    return render_template("dashboard/held.html", page=found, kinds=held.KINDS)


@dashboard_bp.post("/held/<name>/release")
def release_held(name: str) -> Response:
    """Lets it go, if nothing else forbids it by now."""
    became = held.release(current_database(), name, required_name())
    return done(f"Released: {name.replace(':', ' ')} is {became['status']} now.", "show_held")


@dashboard_bp.post("/held/<name>/cancel")
def cancel_held(name: str) -> Response:
    """It is never sent."""
    held.cancel(current_database(), name, required_name())
    return done(f"Cancelled: {name.replace(':', ' ')} is not sent.", "show_held")


@dashboard_bp.get("/opt-outs")
def show_opt_outs() -> tuple[str, int]:
    """Who may not be texted, and how we know."""
    typed, in_force = request.args.get("phone", "").strip(), request.args.get("all") != "1"
    filters, error = _ledger_filters(in_force), None
    try:
        filters = replace(filters, phone=read_phone(typed) if typed else None)
    except InvalidPhone as refused:
        error = refused.message
    found = opt_out_views.list_entries(current_database(), filters, request.args.get("cursor"), PAGE)
    known = {"typed": typed, "in_force": in_force, "error": error}
    return render_template("dashboard/opt_outs.html", page=found, **known), 400 if error else 200


@dashboard_bp.post("/opt-outs")
def add_opt_out() -> Response:
    """Stops texting a number."""
    phone, reason = read_phone(request.form.get("phone", "")), request.form.get("reason", "").strip() or None
    opt_out_views.stop(current_database(), phone, None, reason, OPERATOR)
    return done(f"{phone} is not texted any more.", "show_opt_outs")


@dashboard_bp.post("/opt-outs/<phone>/lift")
def lift_opt_out(phone: str) -> Response:
    """Texts a number again."""
    reason = request.form.get("reason", "").strip() or None
    answer = opt_out_views.lift(current_database(), read_phone(phone), None, reason, OPERATOR)
    elsewhere = f" {answer['elsewhere']['advice']}" if answer["elsewhere"] else ""
    return done(f"{answer['phone']} may be texted again.{elsewhere}", "show_opt_outs")


@dashboard_bp.get("/opt-outs.csv")
def download_opt_outs() -> Response:
    """The whole ledger, as it can be taken in again."""
    database = current_database()
    return expensive_download(lambda: csv_export.opt_outs_csv(database), "opt-outs.csv")


@dashboard_bp.post("/opt-outs/import")
def import_opt_outs() -> str:
    """Stops texting everybody in a file."""
    service, given = current_service(), request.files.get("file")
    if given is None or not given.filename:
        raise InvalidInput("Choose a file", code="missing_file", field="file")
    stream = cast(BinaryIO, given.stream)
    found = csv_import.import_opt_outs(service.database, stream, service.settings.default_region)
    return render_template("dashboard/imported.html", found=found)


@dashboard_bp.get("/callbacks")
def show_callbacks() -> str:
    """Whatever Africa's Talking posted here, kept raw."""
    kind, outcome = (request.args.get(name) or None for name in ("kind", "outcome"))
    found = list_callbacks(current_database(), kind, outcome, request.args.get("cursor"), PAGE)
    return render_template("dashboard/callbacks.html", page=found, kind=kind, outcome=outcome)


@dashboard_bp.post("/callbacks/<int:id>/replay")
def replay_callback(id: int) -> Response:
    """Applies one again."""
    service = current_service()
    require_callback(service.database, id)
    counts = replay(service.database, service.settings, ids=[id])
    still = "It still cannot be applied."
    return done("It is applied." if counts.applied + counts.unchanged else still, "show_callbacks")


@dashboard_bp.get("/health")
def show_health() -> str:
    """Each part of the set-up, looked at once."""
    with expensive_read():
        found = list(doctor.examine(current_service()))
    findings = [replace(one, says=_without_token(one.says)) for one in found]
    return render_template("dashboard/health.html", findings=findings, **_details())


@dashboard_bp.post("/health/resume")
def resume_sending() -> Response:
    """Ends a pause: of one sender, or of everything."""
    sender_id = request.args.get("sender")
    pauses.resume_now(current_database(), sender_id)
    return done("Sending goes on. If the cause is still there it pauses again.", "show_health")


def _details() -> dict[str, Any]:
    """The URLs hold a token: for admins alone."""
    found = health_details.details(current_service())
    return found if g.operator.may(ADMIN) else found | {"urls": []}


def _ledger_filters(in_force: bool) -> LedgerFilters:
    """Beside the number: what the first page counts."""
    return LedgerFilters(in_force=in_force, action=request.args.get("action") or None, since=read_since())


def _without_token(sentence: str) -> str:
    """Whoever knows the token of the callback URLs can speak as Africa's Talking: admins set it up there."""
    return sentence if g.operator.may(ADMIN) else _TOKEN.sub("token=…", sentence)
