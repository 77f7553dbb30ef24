"""Finding a person: by number, or by the reference that a program gave with a message."""

from __future__ import annotations

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from messaging.messages.typed_search import search_part
from messaging.messages.views import MessageFilters, list_messages
from routes.dashboard.blueprint import dashboard_bp, read_phone
from routes.service import current_database
from utils.errors import InvalidPhone

CALLERS = "Operators with the role `sender` or more: it leads to people by their numbers."
PAGE = 50


@dashboard_bp.get("/people")
def find_person() -> str | Response | tuple[str, int]:
    """One box that leads to a person, or to the messages of a reference that several share."""
    typed = request.args.get("q", "").strip()
    if not typed:
        return render_template("dashboard/people.html", typed="")
    place = _place_of(typed)
    if place is None:
        return render_template("dashboard/people.html", typed=typed), 404
    return redirect(place, 303)


def _place_of(typed: str) -> str | None:
    """A reference may be made of digits: where messages have it, it is one. What has a plus is a number."""
    place = None if typed.startswith("+") else _place_of_reference(typed)
    if place is not None:
        return place
    try:
        return url_for("dashboard.show_person", phone=read_phone(typed))
    except InvalidPhone:
        return None


def _place_of_reference(reference: str) -> str | None:
    found = list_messages(current_database(), MessageFilters(reference=reference), limit=PAGE)
    phones = {one["to"] for one in found["items"]}
    if not phones:
        return None
    if len(phones) == 1 and found["next_cursor"] is None and "" not in phones:
        return url_for("dashboard.show_person", phone=phones.pop())
    return url_for("dashboard.show_messages", q=search_part("reference", reference))
