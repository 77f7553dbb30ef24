"""Messages: found by one box; one with what needs a decision on top, then its history."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from messaging import statuses
from messaging.access.actor import required_name
from messaging.callbacks.views import reports_about
from messaging.messages import unknown_outcomes
from messaging.messages.typed_search import SYNTAX, read_search
from messaging.messages.views import MessageFilters, get_message, list_messages
from messaging.operations import held
from routes.dashboard.blueprint import dashboard_bp, done
from routes.expensive_calls import expensive_read
from routes.service import current_database, current_service
from utils.errors import InvalidInput

CALLERS = "Operators."
PAGE = 50
_STATUS = re.compile(r"(?<!\S)status:\S*\s*", re.IGNORECASE)


@dashboard_bp.get("/messages")
def show_messages() -> tuple[str, int]:
    """Messages, newest first, found by one box."""
    typed, error = request.args.get("q", "").strip(), None
    try:
        filters = _filters(typed)
        with expensive_read():
            found = list_messages(current_database(), filters, request.args.get("cursor"), PAGE)
    except InvalidInput as refused:
        found, error = {"items": [], "next_cursor": None}, refused.message
    known = {"typed": typed, "syntax": SYNTAX, "pills": _pills(typed), "error": error}
    return render_template("dashboard/messages.html", page=found, **known), 400 if error else 200


@dashboard_bp.get("/messages/<int:id>")
def show_message(id: int) -> str:
    """One message with its history, and the callbacks that speak of it as they came."""
    database = current_database()
    message = get_message(database, id)
    return render_template("dashboard/message.html", message=message, callbacks=reports_about(database, id))


@dashboard_bp.post("/messages/<int:id>/resend")
def resend_message(id: int) -> Response:
    """Sends an unknown message again, as a new one."""
    new_id = unknown_outcomes.resend(current_database(), id)
    return done(
        f"It is sent again as message {new_id}. The recipient may get both.", "show_message", id=new_id
    )


@dashboard_bp.post("/messages/<int:id>/close")
def close_message(id: int) -> Response:
    """Lets an unknown message rest."""
    unknown_outcomes.close(current_database(), id)
    return done("It rests now. A report may still say what became of it.", "show_message", id=id)


@dashboard_bp.post("/messages/<int:id>/release")
def release_message(id: int) -> Response:
    """Lets a held message go."""
    held.release(current_database(), f"message:{id}", required_name())
    return redirect(url_for("dashboard.show_message", id=id), 303)


@dashboard_bp.post("/messages/<int:id>/cancel")
def cancel_message(id: int) -> Response:
    """Never sends a held message."""
    held.cancel(current_database(), f"message:{id}", required_name())
    return done("It will not be sent.", "show_message", id=id)


def _pills(typed: str) -> list[tuple[str, str, bool]]:
    """Each state with the search that has it beside whatever else was typed, and whether it is the one that is shown.

    The first one, without a name, is every state.
    """
    others = _STATUS.sub("", typed).strip()
    shown = [one.casefold() for one in _STATUS.findall(typed)][-1:]
    chosen = shown[0].strip().partition(":")[2] if shown else ""
    return [
        (name, f"status:{name} {others}".strip() if name else others, name == chosen)
        for name in ("", *statuses.ALL)
    ]


def _filters(typed: str) -> MessageFilters:
    settings = current_service().settings
    return read_search(typed, ZoneInfo(settings.time_zone), settings.default_region)
