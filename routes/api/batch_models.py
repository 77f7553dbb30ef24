"""The shapes of batches in `/v1`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from routes.api.models import Moment, Money, Status, Warned

BatchStatus = Literal["receiving", "scheduled", "sending", "paused", "cancelled", "finished"]


class WaitingMessages(BaseModel):
    reason: str | None = Field(
        description="`do_not_disturb`, `sending_window`, why it is held …; null: a time of its own"
    )
    count: int
    until: Moment | None = Field(description="The next time; null: a person decides")
    pause: str | None = Field(
        description="`account` or `sender:` and its name, where that is paused"
        " (`POST /v1/sending/resume`); else null"
    )


class Batch(Warned):
    id: int
    name: str | None
    status: BatchStatus
    reason: str | None = Field(
        None,
        description="Why it is paused or cancelled: `by_hand`, `max_cost`, `needs_approval`, `unusual_volume`,"
        " `daily_limit`, `interrupted` …; `read_by_command` while `sms bulk` reads its file; else absent",
    )
    explanation: str | None = Field(None, description="The reason in a sentence; absent where unknown")
    remedy: str | None = Field(None, description="What a person can do about it; absent where unknown")
    total: int = Field(description="Messages taken, each number and text once")
    refused: int = Field(description="Rows that could not be used")
    duplicates: int = Field(description="Rows whose number stood there before with the same text")
    counts: dict[str, int] = Field(
        description="Messages by status", examples=[{"delivered": 480, "queued": 20}]
    )
    cost: Money | None = Field(
        description="What was billed; null before anything was, or where `costs` has several"
    )
    costs: list[Money] | None = Field(None, description="By currency, where there are several")
    parts: int = Field(description="Billed pieces, as Africa's Talking counted them")
    progress: float = Field(description="Share that is no longer queued, sending or held", ge=0, le=1)
    waiting: list[WaitingMessages] | None = Field(
        None,
        description="What waits for a clock, a pause or a person, by reason, while it is `sending`; absent in lists",
    )
    max_cost: Money | None = Field(None, description="The batch is paused before it would pass this")
    send_at: Moment | None = None
    expires_at: Moment | None = None
    created_at: Moment
    created_by: str | None = Field(description="The key or person that asked for it, as `key:billing`")
    request_id: str | None = Field(
        description="The `X-Request-Id` of the call that asked for it; null where none did"
    )
    finished_at: Moment | None


class BatchItem(Batch):
    """Without `waiting`; what is counted is null behind the first million messages of a page."""

    counts: dict[str, int] | None = Field(description="Messages by status")  # type: ignore[assignment]
    parts: int | None  # type: ignore[assignment]
    progress: float | None  # type: ignore[assignment]


class BatchPage(BaseModel):
    items: list[BatchItem]
    next_cursor: str | None = Field(description="Null on the last page")


class BatchReason(BaseModel):
    status: Status
    reason: str
    messages: int = Field(description="How many of the batch have this status for this reason")
    explanation: str | None = Field(description="The reason in a sentence; null where unknown")
    remedy: str | None = Field(description="What a person can do about it; null where unknown")


class BatchReasons(BaseModel):
    items: list[BatchReason] = Field(description="The most frequent first; all of them")


class CancelledBatch(Batch):
    cancelled: int = Field(description="Messages that will not be sent")
    to_be_cancelled: int = Field(description="More of them: the worker is at it")
    already_sent: int = Field(description="Africa's Talking has them; they stay as they are")
    under_way: int = Field(description="Were just being sent; some may come out as sent")
    message: str = Field(description="The same in a sentence")
