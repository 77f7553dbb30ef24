"""The JSON API: events to the operator's own system, how they fare, and what to do about it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask_openapi.models.tag import Tag
from pydantic import BaseModel, Field

from messaging.forwarding import outbox
from messaging.forwarding.views import show_forwarding
from routes.api.common import DEFAULT_LIMIT, create_blueprint
from routes.api.models import Blank, ErrorAnswer, Moment, Query
from routes.service import current_database, current_service

CALLERS = "Holders of an API key."
FORWARDING = Tag(
    name="Forwarding",
    description="Events to FORWARD_URL: at least once, in any order, signed as Standard Webhooks has it.",
)

forwarding_api = create_blueprint("forwarding", __name__)

EventState = Literal["waiting", "delivered", "failed"]


class ForwardingQuery(Query):
    state: Annotated[EventState | None, Blank] = Field(None, description="Only events that stand here")


class EventPath(BaseModel):
    id: str = Field(description="The event's id, which the receiver sees as `webhook-id`")


class ForwardedEvent(BaseModel):
    id: str
    type: str = Field(examples=["inbound.received", "message.delivered", "opt_out.recorded"])
    state: EventState
    attempts: int
    http_status: int | None = Field(description="Of the last attempt; null where no answer came")
    last_error: str | None
    created_at: Moment
    next_attempt_at: Moment | None
    finished_at: Moment | None


class ForwardingAnswer(BaseModel):
    state: Literal["off", "on", "failing", "paused"] = Field(
        description="`paused` after a day of failures or a 410; it resumes by hand or when FORWARD_URL changes"
    )
    receiver: str | None = Field(description="Scheme and host of FORWARD_URL")
    reason: str | None
    failing_since: Moment | None
    paused_at: Moment | None
    succeeded_at: Moment | None
    counts: dict[str, int]
    items: list[ForwardedEvent]
    next_cursor: str | None = Field(description="Null on the last page")


class ResumedForwarding(BaseModel):
    was_paused: bool


class ResentEvent(BaseModel):
    id: str
    state: EventState


@forwarding_api.get("/forwarding", tags=[FORWARDING], responses={200: ForwardingAnswer, 400: ErrorAnswer})
def show_forwarding_log(query: ForwardingQuery) -> dict[str, Any]:
    """How the receiver is doing, and the events, newest first. Delivered ones are kept for a week."""
    service = current_service()
    limit = query.limit or DEFAULT_LIMIT
    return show_forwarding(service.settings, service.database, query.state, query.cursor, limit)


@forwarding_api.post("/forwarding/resume", tags=[FORWARDING], responses={200: ResumedForwarding})
def resume_forwarding() -> dict[str, Any]:
    """Ends a pause, and tries everything that waits at once."""
    return {"was_paused": outbox.resume(current_database())}


@forwarding_api.post(
    "/forwarding/<id>/resend", tags=[FORWARDING], responses={200: ResentEvent, 404: ErrorAnswer}
)
def resend_event(path: EventPath) -> dict[str, Any]:
    """Posts one event again, whatever became of it, with the id that it had."""
    outbox.resend(current_database(), path.id)
    return {"id": path.id, "state": "waiting"}
