"""The shapes of `/v1`: queries as they are read, answers as the OpenAPI document describes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from flask import request
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.request_body import RequestBody
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from utils.json_shapes import LARGEST_ID

Status = Literal[
    "queued",
    "sending",
    "accepted",
    "delivered",
    "failed",
    "expired",
    "rejected",
    "unknown",
    "held",
    "blocked",
    "cancelled",
    "no_report",
]
# `fetched` came from AT's inbox, not by a callback.
CallbackKind = Literal["inbound", "report", "opt_out", "subscription", "fetched"]
CallbackOutcome = Literal["received", "applied", "quarantined", "unapplied"]
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
# In a query a raw `+` is a space: 2026-11-24T10:00:00 03:00.
_LOST_PLUS = re.compile(r" (?=\d\d:?\d\d$)")
_WITH_OFFSET = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)")
NEEDS_OFFSET = "Write the time with its offset, like 2026-11-24T08:00:00+03:00 or 2026-11-24T05:00:00Z"
_WITHOUT_ZONE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?")


def _blank_is_absent(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _read_time(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = _LOST_PLUS.sub("+", value.strip())
    return f"{text}T00:00:00Z" if len(text) == 10 else f"{text}Z" if _WITHOUT_ZONE.fullmatch(text) else text


def _read_send_time(value: Any) -> Any:
    # Pydantic would read a bare number as seconds since 1970.
    if not isinstance(value, str) or not _WITH_OFFSET.fullmatch(text := _LOST_PLUS.sub("+", value.strip())):
        raise ValueError(NEEDS_OFFSET)
    return text


def _within_reach(value: datetime) -> datetime:
    """Both stores can compare it, and an hour more or less is still a date."""
    return min(max(value, EARLIEST), LATEST)


def _refuse_truth(value: Any) -> Any:
    # Python's true is 1, and Pydantic's too. What it is to tell of has to be a ValueError.
    if isinstance(value, bool):
        raise ValueError("A whole number is needed here, not true or false")  # noqa: TRY004
    return value


def _without_null_character(value: str) -> str:
    if "\0" in value:
        raise ValueError("a text cannot hold the null character")
    return value


Text = Annotated[str, Field(max_length=1600), AfterValidator(_without_null_character)]
Time = Annotated[AwareDatetime, BeforeValidator(_read_time), AfterValidator(_within_reach)]
# A moment that somebody is texted at: nobody guesses its zone.
SendTime = Annotated[AwareDatetime, BeforeValidator(_read_send_time), AfterValidator(_within_reach)]
# As we say it: RFC 3339, UTC.
Moment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Blank = BeforeValidator(_blank_is_absent)
WholeNumber = Annotated[int, BeforeValidator(_refuse_truth)]


class OptionalBody(BaseModel):
    """A body whose every field may be absent, and so may the body. One that is no JSON is still refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _absent_is_empty(cls, value: Any) -> Any:
        return {} if value is None and not request.get_data() else value


def optional_body(model: type[OptionalBody]) -> RequestBody:
    """For the document, where a body is required by default."""
    schema = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return RequestBody(required=False, content={"application/json": MediaType.model_validate(schema)})


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[Text | None, Blank] = Field(None, description="`next_cursor` of the page before")
    limit: Annotated[int | None, Blank] = Field(
        None, ge=1, le=200, description="Items on a page; 50 by default"
    )


class MessageQuery(Query):
    to: Annotated[Text | None, Blank] = Field(None, description="The recipient's number")
    status: Annotated[Status | None, Blank] = Field(None, description="Only messages that stand here")
    batch_id: Annotated[int | None, Blank] = Field(None, ge=1, le=LARGEST_ID, description="Only this batch")
    created_by: Annotated[Text | None, Blank] = Field(
        None, description="Only what this key or person asked for"
    )
    since: Annotated[Time | None, Blank] = Field(None, description="Created at this time or later (RFC 3339)")
    until: Annotated[Time | None, Blank] = Field(None, description="Created before this time (RFC 3339)")
    q: Annotated[Text | None, Blank] = Field(None, description="Part of the text, in any case")
    text: Annotated[Text | None, Blank] = Field(
        None,
        description="Words that all occur in the text, in any order; found a minute or two after it came",
    )
    reference: Annotated[Text | None, Blank] = Field(None, description="The caller's own id")


class CallbackQuery(Query):
    kind: Annotated[CallbackKind | None, Blank] = Field(None, description="Which of the routes it came to")
    outcome: Annotated[CallbackOutcome | None, Blank] = Field(None, description="What became of it")


class MessagePath(BaseModel):
    id: int = Field(description="The message's id")


class SendWarning(BaseModel):
    line: int | None = Field(None, description="Of the file; absent where there is none")
    to: str | None = Field(None, description="The number; absent where it concerns the whole")
    code: str = Field(examples=["doubtful_number"])
    message: str


class Warned(BaseModel):
    """What is sent as asked for, but may not have been meant so."""

    warnings: list[SendWarning] = Field(description="The first 100")
    warning_counts: dict[str, int] = Field(
        description="All of them, by code", examples=[{"doubtful_number": 2}]
    )


class Money(BaseModel):
    amount: str = Field(examples=["0.8000"])
    currency: str | None = Field(description="Null where Africa's Talking named none", examples=["KES"])


class HistoryEntry(BaseModel):
    at: Moment
    status: Status | None = Field(description="What the message became; null where this changed nothing")
    source: str = Field(description="Who said so: `provider`, `report`, `worker`, `sweep` …")
    detail: str | None
    callback_id: int | None = Field(
        None, description="Of the callback that said so (`GET /v1/callbacks`); absent where none did"
    )


class MessageItem(BaseModel):
    id: int
    batch_id: int | None
    to: str = Field(examples=["+254711000001"])
    reference: str | None = Field(description="The caller's own id", examples=["visit-7"])
    text: str
    sender_id: str | None = Field(description="Null: Africa's Talking's default sender")
    origin: str = Field(description="How it came here: `trigger`, `api`, `reply` …")
    status: Status
    reason: str | None = Field(None, description="Why it stands here; absent where there is nothing to say")
    explanation: str | None = Field(None, description="The reason in a sentence; absent where unknown")
    remedy: str | None = Field(
        None, description="What a person can do about the reason; absent where unknown"
    )
    provider_message_id: str | None
    cost: Money | None
    parts: int | None = Field(description="Billed pieces, as Africa's Talking counted them")
    estimated_parts: int | None = Field(description="Billed pieces, as we counted them")
    network: str | None
    inbound_id: int | None = Field(description="The inbound message this answers")
    resend_of: int | None = Field(description="The message that this one repeats")
    created_by: str | None = Field(description="The key or person that asked for it, as `key:billing`")
    request_id: str | None = Field(
        description="The `X-Request-Id` of the call that asked for it; null where none did"
    )
    created_at: Moment
    sent_at: Moment | None
    finished_at: Moment | None


class Message(MessageItem):
    history: list[HistoryEntry] = Field(description="Everything that happened to it, oldest first")


class MessagePage(BaseModel):
    items: list[MessageItem]
    next_cursor: str | None = Field(description="Null on the last page")


class CallbackItem(BaseModel):
    id: int
    kind: CallbackKind
    outcome: CallbackOutcome = Field(
        description="`received` is a report that the worker has still to apply; `quarantined` lacks a field it"
        " needs; `unapplied` failed: it is tried again by itself for a day, and by `sms replay`"
    )
    detail: str | None
    count: int = Field(description="How often the same body came")
    content_type: str | None
    body: str | None = Field(description="The raw body; null where it is not UTF-8")
    body_base64: str | None = Field(description="The raw body where it is not UTF-8")
    received_at: Moment
    last_seen_at: Moment


class CallbackPage(BaseModel):
    items: list[CallbackItem]
    next_cursor: str | None = Field(description="Null on the last page")


class ErrorBody(BaseModel):
    code: str = Field(description="For programs", examples=["not_found"])
    message: str = Field(description="For people")
    field: str | None = Field(None, description="The input at fault; absent where none is")
    details: dict[str, Any] | None = Field(None, description="Whatever else can be acted on; often absent")


class ErrorAnswer(BaseModel):
    error: ErrorBody
