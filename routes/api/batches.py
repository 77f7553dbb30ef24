"""The JSON API: batches, how far they are, and holding or ending them."""

from __future__ import annotations

from typing import Any

from flask_openapi.models.tag import Tag
from pydantic import BaseModel, Field

from messaging.batches import control, progress
from routes.api.batch_models import Batch, BatchReasons, CancelledBatch
from routes.api.common import create_blueprint
from routes.api.models import ErrorAnswer
from routes.expensive_calls import expensive_read
from routes.service import current_database

CALLERS = "Holders of an API key."
BATCHES = Tag(name="Batches", description="Messages that were asked for together.")

batches_api = create_blueprint("batches", __name__)


class BatchPath(BaseModel):
    id: int = Field(description="The batch's id")


@batches_api.get("/batches/<int:id>", tags=[BATCHES], responses={200: Batch, 404: ErrorAnswer})
def show_batch(path: BatchPath) -> dict[str, Any]:
    """How far a batch has come."""
    return progress.get_batch(current_database(), path.id)


@batches_api.get("/batches/<int:id>/reasons", tags=[BATCHES], responses={200: BatchReasons, 404: ErrorAnswer})
def show_batch_reasons(path: BatchPath) -> dict[str, Any]:
    """Why messages of a batch did not arrive or are not known to, the most frequent first."""
    with expensive_read():
        return {"items": progress.reasons_of(current_database(), path.id)}


@batches_api.post(
    "/batches/<int:id>/pause", tags=[BATCHES], responses={200: Batch, 404: ErrorAnswer, 409: ErrorAnswer}
)
def pause_batch(path: BatchPath) -> dict[str, Any]:
    """Holds a batch: no POST of it begins any more. Harmless to repeat."""
    return control.pause(current_database(), path.id)


@batches_api.post(
    "/batches/<int:id>/resume", tags=[BATCHES], responses={200: Batch, 404: ErrorAnswer, 409: ErrorAnswer}
)
def resume_batch(path: BatchPath) -> dict[str, Any]:
    """Lets a paused batch go on. Harmless to repeat."""
    return control.resume(current_database(), path.id)


@batches_api.post(
    "/batches/<int:id>/cancel",
    tags=[BATCHES],
    responses={200: CancelledBatch, 404: ErrorAnswer, 409: ErrorAnswer},
)
def cancel_batch(path: BatchPath) -> dict[str, Any]:
    """Ends a batch. What Africa's Talking already has is not undone. Harmless to repeat."""
    return control.cancel(current_database(), path.id)
