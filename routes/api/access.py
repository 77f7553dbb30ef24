"""The JSON API: what persons and keys changed."""

from __future__ import annotations

from typing import Annotated, Any

from flask_openapi.models.tag import Tag
from pydantic import BaseModel, Field

from messaging.access.actions import list_actions
from routes.api.common import DEFAULT_LIMIT, create_blueprint
from routes.api.models import Blank, ErrorAnswer, Moment, Query, Text
from routes.service import current_database

CALLERS = "Holders of an API key with the scope `admin`."
ACCESS = Tag(name="Access", description="Who may do what, and who did.")

access_api = create_blueprint("access", __name__)


class ActionsQuery(Query):
    actor: Annotated[Text | None, Blank] = Field(None, description="Only theirs, as `key:billing`")
    subject: Annotated[Text | None, Blank] = Field(None, description="Only what was done to it, as `batch:7`")


class Action(BaseModel):
    id: int
    at: Moment
    actor: str = Field(examples=["key:billing", "operator:ann", "shell:root"])
    address: str | None = Field(description="Where the request came from; null at the command line")
    action: str = Field(examples=["batch.pause"])
    subject: str = Field(examples=["batch:7"])
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class ActionPage(BaseModel):
    items: list[Action]
    next_cursor: str | None = Field(description="Null on the last page")


@access_api.get("/actions", tags=[ACCESS], responses={200: ActionPage, 400: ErrorAnswer})
def show_actions(query: ActionsQuery) -> dict[str, Any]:
    """What persons and keys changed, newest first."""
    limit = query.limit or DEFAULT_LIMIT
    return list_actions(current_database(), query.actor, query.subject, query.cursor, limit)
