"""The JSON API: what people wrote to us, and what we answer."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi.models.tag import Tag

from messaging.conversations import threads
from messaging.conversations.inbound_views import InboundFilters, list_inbound, release
from messaging.conversations.views import get_conversation, list_conversations
from routes.api.common import DEFAULT_LIMIT, answer_send, create_blueprint, read_phone_field
from routes.api.conversation_models import (
    Conversation,
    ConversationPage,
    ConversationQuery,
    ConversationsQuery,
    InboundItem,
    InboundPage,
    InboundPath,
    InboundQuery,
    MarkRead,
    PhonePath,
    Said,
    Say,
    Unread,
)
from routes.api.models import ErrorAnswer, optional_body
from routes.api.send_models import IdempotencyHeader
from routes.service import current_database
from utils.errors import InvalidPhone

CALLERS = "Holders of an API key."
CONVERSATIONS = Tag(name="Conversations", description="Texts that people sent to us, and our answers.")

conversations_api = create_blueprint("conversations", __name__)


@conversations_api.get("/inbound", tags=[CONVERSATIONS], responses={200: InboundPage, 400: ErrorAnswer})
def show_inbound(query: InboundQuery) -> dict[str, Any]:
    """Texts that came, newest first."""
    given = query.model_dump(include={"meaning", "possible_opt_out", "reply", "since", "until"})
    filters = InboundFilters(_sender(query.from_), query.to, **given)
    return list_inbound(current_database(), filters, query.cursor, query.limit or DEFAULT_LIMIT)


@conversations_api.post(
    "/inbound/<int:id>/release",
    tags=[CONVERSATIONS],
    responses={200: InboundItem, 403: ErrorAnswer, 404: ErrorAnswer, 409: ErrorAnswer},
)
def release_inbound(path: InboundPath) -> dict[str, Any]:
    """Sends the answer that the loop breaker holds, or tries a failed reply handler again."""
    return release(current_database(), path.id)


@conversations_api.get(
    "/conversations", tags=[CONVERSATIONS], responses={200: ConversationPage, 400: ErrorAnswer}
)
def show_conversations(query: ConversationsQuery) -> dict[str, Any]:
    """Everyone who wrote to us; whoever wrote last comes first."""
    limit = query.limit or DEFAULT_LIMIT
    return list_conversations(current_database(), query.cursor, limit, only_unread=bool(query.unread))


@conversations_api.get(
    "/conversations/<phone>",
    tags=[CONVERSATIONS],
    responses={200: Conversation, 400: ErrorAnswer, 404: ErrorAnswer},
)
def show_conversation(path: PhonePath, query: ConversationQuery) -> dict[str, Any]:
    """Both directions of one phone, latest first, in the order in which we saw them."""
    phone = read_phone_field(path.phone, "phone")
    return get_conversation(current_database(), phone, query.cursor, query.limit or DEFAULT_LIMIT)


@conversations_api.post(
    "/conversations/<phone>/read",
    tags=[CONVERSATIONS],
    request_body=optional_body(MarkRead),
    responses={200: Unread, 400: ErrorAnswer, 404: ErrorAnswer},
)
def mark_conversation_read(path: PhonePath, body: MarkRead) -> dict[str, Any]:
    """Marks a conversation as read."""
    phone = read_phone_field(path.phone, "phone")
    return {"unread": threads.mark_read(current_database(), phone, body.up_to)}


@conversations_api.post(
    "/conversations/<phone>/messages",
    tags=[CONVERSATIONS],
    responses={
        202: Said,
        400: ErrorAnswer,
        403: ErrorAnswer,
        404: ErrorAnswer,
        409: ErrorAnswer,
        422: ErrorAnswer,
    },
)
def say_in_conversation(path: PhonePath, body: Say, header: IdempotencyHeader) -> tuple[Response, int]:
    """Answers, from the number that the phone wrote to last, before anything else that is queued."""
    phone = read_phone_field(path.phone, "phone")
    return answer_send(threads.say(current_database(), phone, body.text, header.idempotency_key))


def _sender(typed: str | None) -> str | None:
    """E.164 where it is a phone's; networks also write from names and short numbers."""
    try:
        return None if typed is None else read_phone_field(typed, "from")
    except InvalidPhone:
        return typed
