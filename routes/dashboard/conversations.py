"""Conversations: who wrote to us, and our answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import render_template, request
from werkzeug.wrappers import Response

from messaging.consent import consents
from messaging.consent import views as opt_out_views
from messaging.consent.views import LedgerFilters
from messaging.conversations import inbound_views, threads, views
from messaging.messages.views import MessageFilters, list_messages
from messaging.operations.forget import forget
from routes.dashboard.blueprint import dashboard_bp, done, read_phone, read_since
from routes.service import current_database, current_service
from utils.errors import InvalidInput, OptedOut

CALLERS = "Operators with the role `sender` or more: numbers and words of people stand there."
PAGE = 30
OPERATOR = "operator"


@dashboard_bp.get("/conversations")
def show_conversations() -> str:
    """Everyone who wrote to us: what is unread first, then the latest."""
    only_unread, since, cursor = request.args.get("unread") == "1", read_since(), request.args.get("cursor")
    if not (only_unread or since or cursor):
        return render_template("dashboard/conversations.html", **_people())
    found = _some_people(cursor, only_unread, since)
    known = {"page": found, "only_unread": only_unread, "since": request.args.get("since")}
    return render_template("dashboard/conversations.html", **known)


@dashboard_bp.get("/conversations/people")
def show_people() -> str:
    """The list of people as it is now, with the one whose conversation is open beside it."""
    return render_template("dashboard/conversation_list.html", **_people(), phone=request.args.get("phone"))


@dashboard_bp.get("/conversations/<phone>")
def show_conversation(phone: str) -> str:
    """Both directions of one number, and a box to answer."""
    return _conversation(phone)


@dashboard_bp.get("/conversations/<phone>/texts")
def show_texts(phone: str) -> str:
    """The part of the page that changes while texts come."""
    return render_template("dashboard/texts.html", **_read(phone))


@dashboard_bp.post("/conversations/<phone>/reply")
def reply(phone: str) -> Response | tuple[str, int]:
    """Answers, once: a second press of the button finds the first one's key."""
    text, key = request.form.get("text", ""), request.form.get("once") or None
    try:
        threads.say(current_database(), read_phone(phone), text, key)
    except (InvalidInput, OptedOut) as error:
        return _conversation(phone, text=text, error=error.message), 400
    return done("Your answer is on its way.", "show_conversation", phone=phone)


@dashboard_bp.post("/conversations/<phone>/read")
def mark_read(phone: str) -> Response:
    """Marks a conversation as read, as far as it was shown."""
    threads.mark_read(current_database(), read_phone(phone), request.form.get("up_to", type=int))
    return done("Marked as read.", "show_conversations")


@dashboard_bp.post("/conversations/<phone>/stop")
def stop_texting(phone: str) -> Response:
    """Takes a text for the opt-out that a person reads in it."""
    opt_out_views.stop(current_database(), read_phone(phone), None, "read in a text", OPERATOR)
    return done("This number is not texted any more.", "show_conversation", phone=phone)


@dashboard_bp.post("/inbound/<int:id>/release")
def release_reply(id: int) -> Response:
    """Sends an answer that is held, or tries a failed handler again."""
    found = inbound_views.release(current_database(), id)
    return done("It goes out now.", "show_conversation", phone=found["from"])


@dashboard_bp.get("/people/<phone>")
def show_person(phone: str) -> str:
    """One number: everything that was sent, received, opted out and agreed to."""
    number = read_phone(phone)
    return render_template("dashboard/person.html", phone=number, **_known_of(number))


@dashboard_bp.post("/people/<phone>/forget")
def forget_person(phone: str) -> Response:
    """Erases a person everywhere, as `sms forget`."""
    if request.form.get("sure") != "1":
        raise InvalidInput("Tick that you know that this cannot be undone", field="sure")
    # Without the limit of a large read: cut off in the middle it would have to say that something was changed.
    found = forget(current_service(), read_phone(phone))
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items() if count)
    return done(f"Erased: {words or 'nothing was there'}. This cannot be undone.", "show_messages")


def _some_people(cursor: str | None, only_unread: bool, since: datetime | None) -> dict[str, Any]:
    # Behind the first page of all come those who are read: the others stand at its top.
    only_read = not only_unread and since is None
    return views.list_conversations(
        current_database(), cursor, PAGE, only_unread=only_unread, only_read=only_read, since=since
    )


def _people() -> dict[str, Any]:
    """The top of the list: what is unread, then the latest of the others."""
    database = current_database()
    first = views.list_conversations(database, None, PAGE, only_unread=True)
    return {"first": first, "page": views.list_conversations(database, None, PAGE, only_read=True)}


def _known_of(number: str) -> dict[str, object]:
    """The latest of each kind."""
    database, entries = current_database(), LedgerFilters(phone=number)
    received = inbound_views.list_inbound(database, inbound_views.InboundFilters(number), limit=PAGE)
    return {
        "messages": list_messages(database, MessageFilters(to=number), limit=PAGE)["items"],
        "received": received["items"],
        "consents": consents.list_consents(database, number, limit=PAGE)["items"],
        "ledger": opt_out_views.list_entries(database, entries, limit=PAGE)["items"],
    }


def _read(phone: str) -> dict[str, object]:
    database, number = current_database(), read_phone(phone)
    found = views.get_conversation(database, number, request.args.get("cursor"), PAGE)
    blocks = opt_out_views.list_entries(database, LedgerFilters(phone=number, in_force=True), limit=1)
    return {"phone": number, "conversation": found, "blocks": blocks["items"]}


def _conversation(phone: str, **known: object) -> str:
    return render_template("dashboard/conversation.html", **_read(phone), **_people(), **known)
