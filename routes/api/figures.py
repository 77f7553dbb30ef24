"""The JSON API: what is left on the account."""

from __future__ import annotations

from typing import Any

from flask_openapi.models.tag import Tag
from pydantic import BaseModel, Field

from routes.api.common import create_blueprint
from routes.api.models import ErrorAnswer, Money
from routes.service import current_service

CALLERS = "Holders of an API key."
FIGURES = Tag(name="Figures", description="What was sent, what it cost, and what is left.")

figures_api = create_blueprint("figures", __name__)


class BalanceAnswer(BaseModel):
    balance: Money = Field(description="May be negative")
    at: str = Field(
        json_schema_extra={"format": "date-time"},
        description="When Africa's Talking said so: up to a minute ago",
    )


@figures_api.get("/balance", tags=[FIGURES], responses={200: BalanceAnswer, 502: ErrorAnswer})
def show_balance() -> dict[str, Any]:
    """What is left on the account at Africa's Talking."""
    return current_service().balance.read()
