"""Conversations: who wrote to us, and our answers."""

from __future__ import annotations

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
from utils.errors import InvalidInput

CALLERS = "Operators with the role `sender` or more: numbers and words of people stand there."
PAGE = 30
OPERATOR = "operator"


@dashboard_bp.get("/conversations")
def show_conversations() -> str:
    """Everyone who wrote to us: what is unread first, then the latest."""
    only_unread, since, cursor = request.args.get("unread") == "1", read_since(), request.args.get("cursor")
    is_whole = not only_unread and since is None
    found = views.list_conversations(
        current_database(), cursor, PAGE, only_unread=only_unread, only_read=is_whole, since=since
    )
    first = _unread() if is_whole and cursor is None else None
    return render_template("dashboard/conversations.html", page=found, first=first, only_unread=only_unread)


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
    except InvalidInput as error:
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


def _unread() -> dict[str, Any]:
    return views.list_conversations(current_database(), None, PAGE, only_unread=True)


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
    return {"phone": number, "conversation": found}


def _conversation(phone: str, **known: object) -> str:
    standing = LedgerFilters(phone=read_phone(phone), in_force=True)
    blocks = opt_out_views.list_entries(current_database(), standing, limit=1)["items"]
    return render_template("dashboard/conversation.html", **_read(phone), blocks=blocks, **known)
