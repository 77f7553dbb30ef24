"""Who agreed to be texted: the ledger, and two forms that add to it."""

from __future__ import annotations

from flask import render_template, request
from werkzeug.wrappers import Response

from messaging.consent import consents
from routes.dashboard.blueprint import dashboard_bp, done, read_phone
from routes.service import current_database
from utils.errors import InvalidPhone

CALLERS = "Operators; a `sender` withdraws a consent, an `admin` writes one down."
PAGE = 50
OPERATOR = "operator"


@dashboard_bp.get("/consents")
def show_consents() -> tuple[str, int]:
    """Who agreed, to what words, and how we know."""
    typed, in_force = request.args.get("phone", "").strip(), request.args.get("all") != "1"
    try:
        phone, error = read_phone(typed) if typed else None, None
    except InvalidPhone as refused:
        phone, error = None, refused.message
    cursor = request.args.get("cursor")
    found = consents.list_consents(current_database(), phone, in_force=in_force, cursor=cursor, limit=PAGE)
    known = {"typed": typed, "in_force": in_force, "error": error}
    return render_template("dashboard/consents.html", page=found, **known), 400 if error else 200


@dashboard_bp.post("/consents")
def add_consent() -> Response:
    """Writes down that a number agreed."""
    phone = read_phone(request.form.get("phone", ""))
    said = {name: _typed(name) for name in ("purpose", "wording", "wording_version", "evidence")}
    terms = consents.Terms(_typed("source") or OPERATOR, **said)
    consents.give(current_database(), phone, _typed("sender_id"), terms)
    return done(f"{phone} agreed to be texted.", "show_consents")


@dashboard_bp.post("/consents/<phone>/withdraw")
def withdraw_consent(phone: str) -> Response:
    """Ends what a number agreed to."""
    terms = consents.Terms(_typed("source") or OPERATOR, evidence=_typed("evidence"))
    answer = consents.withdraw(current_database(), read_phone(phone), _typed("sender_id"), terms)
    return done(f"{answer['phone']}: {answer['withdrawn']} withdrawn.", "show_consents")


def _typed(name: str) -> str | None:
    return request.form.get(name, "").strip().replace("\0", "\ufffd") or None
