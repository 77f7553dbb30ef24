"""The JSON API: what happened to messages and callbacks."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Response
from flask_openapi.models.tag import Tag

from messaging.callbacks.views import list_callbacks
from messaging.consent import ledger
from messaging.messages import accept
from messaging.messages.views import MessageFilters, get_message, list_messages
from routes.api.common import DEFAULT_LIMIT, answer_send, create_blueprint, read_phone_field
from routes.api.models import (
    CallbackPage,
    CallbackQuery,
    ErrorAnswer,
    Message,
    MessagePage,
    MessagePath,
    MessageQuery,
)
from routes.api.send_models import AcceptedSend, IdempotencyHeader, SendMessages
from routes.expensive_calls import expensive_read
from routes.service import current_database, current_service

CALLERS = "Holders of an API key."
MESSAGES = Tag(name="Messages", description="One text to one recipient each.")
CALLBACKS = Tag(name="Callbacks", description="Whatever Africa's Talking posted here, kept raw.")


messages_api = create_blueprint("messages", __name__)


@messages_api.get("/messages", tags=[MESSAGES], responses={200: MessagePage, 400: ErrorAnswer})
def show_messages(query: MessageQuery) -> dict[str, Any]:
    """Messages, newest first."""
    filters = MessageFilters(**query.model_dump(exclude={"cursor", "limit", "to"}), to=_e164(query.to))
    database, limit = current_database(), query.limit or DEFAULT_LIMIT
    if filters.is_by_key:
        return list_messages(database, filters, query.cursor, limit)
    with expensive_read():
        return list_messages(database, filters, query.cursor, limit)


SEND_ANSWERS: dict[str | int | HTTPStatus, Any] = {
    202: AcceptedSend,
    400: ErrorAnswer,
    409: ErrorAnswer,
    422: ErrorAnswer,
}


@messages_api.post("/messages", tags=[MESSAGES], responses=SEND_ANSWERS)
def send_messages(body: SendMessages, header: IdempotencyHeader) -> tuple[Response, int]:
    """Queues one text to one or many recipients. Durable when it answers."""
    service = current_service()
    return answer_send(
        accept.accept(
            service.settings, service.database, body.as_request(), header.idempotency_key, ledger.suppressed
        )
    )


@messages_api.get("/messages/<int:id>", tags=[MESSAGES], responses={200: Message, 404: ErrorAnswer})
def show_message(path: MessagePath) -> dict[str, Any]:
    """One message with its history."""
    return get_message(current_database(), path.id)


@messages_api.get("/callbacks", tags=[CALLBACKS], responses={200: CallbackPage, 400: ErrorAnswer})
def show_callbacks(query: CallbackQuery) -> dict[str, Any]:
    """The journal of callbacks, newest first."""
    limit = query.limit or DEFAULT_LIMIT
    return list_callbacks(current_database(), query.kind, query.outcome, query.cursor, limit)


def _e164(phone: str | None) -> str | None:
    return None if phone is None else read_phone_field(phone, "to")
