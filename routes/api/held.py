"""The JSON API: what waits for a person, released or cancelled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask_openapi.models.tag import Tag
from pydantic import BaseModel, Field

from messaging.access.actor import acting_name
from messaging.operations import held
from routes.api.common import DEFAULT_LIMIT, create_blueprint
from routes.api.models import Blank, ErrorAnswer, Moment, Query
from routes.service import current_database

CALLERS = "Holders of an API key."
HELD = Tag(
    name="Held", description="What a brake, a restore or the loop breaker holds until a person decides."
)
BY = "an API key"

held_api = create_blueprint("held", __name__)

HeldKind = Literal["batch", "reply", "message"]


class HeldQuery(Query):
    kind: Annotated[HeldKind | None, Blank] = Field(None, description="Only this kind")


class HeldPath(BaseModel):
    id: str = Field(description="As the list has it", examples=["message:12", "batch:7", "reply:3"])


class HeldItem(BaseModel):
    id: str = Field(examples=["message:12"])
    kind: HeldKind
    reason: str | None = Field(description="Why it is held", examples=["database_restored"])
    explanation: str | None = Field(description="The reason in a sentence; null where unknown")
    remedy: str | None = Field(description="What a person can do about it; null where unknown")
    to: str | None = Field(description="Null for a batch")
    name: str | None = Field(description="Of a batch")
    texts: list[str] = Field(description="What would be sent; of a batch the text with its placeholders")
    messages: int = Field(description="How many texts it is")
    batch_id: int | None = Field(description="Of a message that belongs to one")
    held_at: Moment | None = Field(description="Null where unknown")
    expires_at: Moment | None = Field(description="Then it expires by itself")
    created_by: str | None = Field(description="Of a batch: who asked for it; null where unknown")


class HeldPage(BaseModel):
    items: list[HeldItem]
    next_cursor: str | None = Field(description="Null on the last page")


class Decided(BaseModel):
    id: str
    status: str = Field(description="What it is now: `queued`, or what forbids it: `blocked`, `expired` …")


@held_api.get("/held", tags=[HELD], responses={200: HeldPage, 400: ErrorAnswer})
def show_held(query: HeldQuery) -> dict[str, Any]:
    """Batches, then replies, then messages, the newest of each first."""
    return held.list_held(current_database(), query.kind, query.cursor, query.limit or DEFAULT_LIMIT)


DECISIONS: dict[Any, Any] = {
    200: Decided,
    400: ErrorAnswer,
    403: ErrorAnswer,
    404: ErrorAnswer,
    409: ErrorAnswer,
}


@held_api.post("/held/<id>/release", tags=[HELD], responses=DECISIONS)
def release_held(path: HeldPath) -> dict[str, Any]:
    """Lets it go. Opt-out, expiry and the batch's status are asked again first."""
    return held.release(current_database(), path.id, acting_name() or BY)


@held_api.post("/held/<id>/cancel", tags=[HELD], responses=DECISIONS)
def cancel_held(path: HeldPath) -> dict[str, Any]:
    """It is never sent."""
    return held.cancel(current_database(), path.id, acting_name() or BY)
