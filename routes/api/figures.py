"""The JSON API: what was sent, what it cost, and what is left on the account."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask_openapi.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from messaging.operations.stats import DAY, stats
from routes.api.common import create_blueprint
from routes.api.models import Blank, ErrorAnswer, Moment, Money, Time
from routes.expensive_calls import expensive_read
from routes.service import current_service

CALLERS = "Holders of an API key."
FIGURES = Tag(name="Figures", description="What was sent, what it cost, and what is left.")

figures_api = create_blueprint("figures", __name__)


class BalanceAnswer(BaseModel):
    balance: Money = Field(description="May be negative")
    at: Moment = Field(
        description="When Africa's Talking said so: up to a minute ago",
    )


class StatsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    since: Annotated[Time | None, Blank] = Field(
        None, description="From the hour that holds this time (RFC 3339); six days before today if absent"
    )
    until: Annotated[Time | None, Blank] = Field(
        None, description="Before this time (RFC 3339); now if absent"
    )
    bucket: Annotated[Literal["day", "hour"] | None, Blank] = Field(
        None, description="Days, of TIME_ZONE, or hours; days if absent"
    )


class Figures(BaseModel):
    counts: dict[str, int] = Field(
        description="Messages that came to a status, by status. One that was reported twice, as failed and later as"
        " delivered, is counted in both",
        examples=[{"accepted": 500, "delivered": 480, "failed": 12}],
    )
    costs: list[Money] = Field(description="What was billed for what was accepted, by currency")
    parts: int = Field(description="Billed pieces")


class Bucket(Figures):
    at: Moment = Field(description="Where it begins")


class NetworkFigures(Figures):
    network: str | None = Field(description="As reports named it; null before there is one")


class SenderFigures(Figures):
    sender_id: str | None = Field(description="Null: Africa's Talking's default sender")


class ReasonCount(BaseModel):
    status: str
    reason: str = Field(description="`after_failed` of a delivered one: it was counted as failed before")
    messages: int
    explanation: str | None
    remedy: str | None


class DeliverySeconds(BaseModel):
    """From AT's acceptance to the report, read from a histogram; null where nothing was delivered."""

    messages: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


class StatsAnswer(BaseModel):
    since: Moment
    until: Moment
    bucket: Literal["day", "hour"]
    time_zone: str
    items: list[Bucket] = Field(description="Every bucket of the time, oldest first")
    totals: Figures
    networks: list[NetworkFigures]
    senders: list[SenderFigures]
    reasons: list[ReasonCount] = Field(description="The most frequent first")
    delivery_seconds: DeliverySeconds


@figures_api.get("/stats", tags=[FIGURES], responses={200: StatsAnswer, 400: ErrorAnswer})
def show_stats(query: StatsQuery) -> dict[str, Any]:
    """What became of messages, by the time it happened."""
    service = current_service()
    zone, bucket = service.settings.time_zone, query.bucket or DAY
    with expensive_read():
        return stats(service.database, zone, query.since, query.until, bucket)


@figures_api.get("/balance", tags=[FIGURES], responses={200: BalanceAnswer, 502: ErrorAnswer})
def show_balance() -> dict[str, Any]:
    """What is left on the account at Africa's Talking."""
    return current_service().balance.read()
