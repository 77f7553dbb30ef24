"""The JSON API: the proof, callbacks applied once more, and sending resumed.

A path has all of its methods in one module: of two blueprints with one path the document keeps the last.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask_openapi.models.tag import Tag
from pydantic import BaseModel, Field

from messaging.callbacks.replay import replay
from messaging.callbacks.views import require_callback
from messaging.messages import unknown_outcomes
from messaging.messages.views import get_message
from messaging.operations.audit import audit
from messaging.sending import pauses
from routes.api.common import create_blueprint
from routes.api.models import ErrorAnswer, Message, MessagePath, optional_body
from routes.api.send_models import Resumed, ResumeSending
from routes.expensive_calls import expensive_read
from routes.service import current_database, current_service

CALLERS = "Holders of an API key."
RECORDS = Tag(
    name="Operations", description="Whether everything is accounted for, and what an operator may set right."
)

operations_api = create_blueprint("operations", __name__)


class Problem(BaseModel):
    kind: str
    message_id: int | None = None
    detail: str


class Listed(BaseModel):
    kind: str
    id: int
    detail: str


class AuditAnswer(BaseModel):
    ok: bool
    problems: list[Problem]
    counts: dict[str, int]
    listed: list[Listed] = Field(description="No contradiction, but for a person to look at")


class CallbackPath(BaseModel):
    id: int = Field(description="The callback's id")


class ResentMessage(BaseModel):
    id: int = Field(description="The new message")
    resend_of: int


class ReplayAnswer(BaseModel):
    applied: int
    unchanged: int = Field(description="Had taken effect already")
    quarantined: int
    unapplied: int


@operations_api.get("/audit", tags=[RECORDS], responses={200: AuditAnswer})
def show_audit() -> dict[str, Any]:
    """Checks the records against each other."""
    with expensive_read():
        return audit(current_database()).as_json()


@operations_api.post(
    "/callbacks/<int:id>/replay", tags=[RECORDS], responses={200: ReplayAnswer, 404: ErrorAnswer}
)
def replay_callback(path: CallbackPath) -> dict[str, Any]:
    """Applies one kept callback again; what has taken effect does not do so twice."""
    service = current_service()
    require_callback(service.database, path.id)
    return asdict(replay(service.database, service.settings, ids=[path.id]))


@operations_api.post(
    "/sending/resume",
    tags=[RECORDS],
    request_body=optional_body(ResumeSending),
    responses={200: Resumed, 400: ErrorAnswer},
)
def resume_sending(body: ResumeSending) -> dict[str, Any]:
    """Lifts the pause of the account and of every sender id, or of one sender id."""
    return {"resumed": pauses.resume_now(current_database(), body.sender_id)}


@operations_api.post(
    "/messages/<int:id>/resend",
    tags=[RECORDS],
    responses={202: ResentMessage, 404: ErrorAnswer, 409: ErrorAnswer},
)
def resend_message(path: MessagePath) -> tuple[dict[str, Any], int]:
    """Sends an unknown message again, as a new one that names it. Its recipient may get both."""
    return {"id": unknown_outcomes.resend(current_database(), path.id), "resend_of": path.id}, 202


@operations_api.post(
    "/messages/<int:id>/close", tags=[RECORDS], responses={200: Message, 404: ErrorAnswer, 409: ErrorAnswer}
)
def close_message(path: MessagePath) -> dict[str, Any]:
    """Lets an unknown message rest; a report may still settle it."""
    unknown_outcomes.close(current_database(), path.id)
    return get_message(current_database(), path.id)
