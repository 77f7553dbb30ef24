"""The shapes of sending: what a caller gives and gets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, WithJsonSchema

from messaging.messages.accept import MOST_RECIPIENTS, SendRequest
from routes.api.models import Blank, OptionalBody, SendTime, Status, Text, Warned

ONE_OR_MANY = BeforeValidator(lambda to: [to] if isinstance(to, str) else to)
ONE_OR_MANY_TOLD = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
)


class IdempotencyHeader(BaseModel):
    """Header names are matched without regard to case and with `_` for `-`."""

    model_config = ConfigDict(populate_by_name=True)

    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        description="The same key with the same body within 24 hours sends once and gets the first answer",
    )


class SendMessages(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # A million wrong entries would make a million errors, 200 times as large as the body.
    to: Annotated[list[str], FailFast(), ONE_OR_MANY, ONE_OR_MANY_TOLD] = Field(
        description=f"One phone number, or a list of up to {MOST_RECIPIENTS}",
        examples=["+254711000001", ["+254711000001", "+254711000002"]],
    )
    text: str = Field(examples=["School closes at noon"])
    sender_id: str | None = Field(
        None, description="Instead of AT_SENDER_ID: a shortcode or a registered name"
    )
    send_at: SendTime | None = Field(None, description="Not before this time (RFC 3339)")
    expires_at: SendTime | None = Field(
        None, description="Not after this time (RFC 3339); then it is `expired`"
    )
    on_unknown: Literal["hold", "resend", "fail"] = Field(
        "hold",
        description="When the provider's answer is lost: `hold`, the default, waits for a report or a person,"
        " `resend` sends once more and accepts a possible duplicate, `fail` gives up",
    )

    reference: Annotated[Text | None, Blank] = Field(
        None,
        description="Your own id, at most 100 characters: in answers, in events and as a filter; never sent",
        examples=["visit-7"],
    )

    def as_request(self) -> SendRequest:
        return SendRequest(
            self.to,
            self.text,
            self.sender_id,
            self.send_at,
            self.expires_at,
            self.on_unknown,
            reference=self.reference,
        )


class RefusedRecipient(BaseModel):
    to: str
    code: str
    message: str


class QueuedMessage(BaseModel):
    id: int
    to: str
    status: Status


class AcceptedSend(Warned):
    batch_id: int
    accepted: int = Field(description="How many messages were queued")
    refused: list[RefusedRecipient]
    duplicates: int = Field(description="Recipients named more than once; each is sent to once")
    paused: str | None = Field(
        None,
        description="The brake that holds them until an approver resumes the batch: `needs_approval` or"
        " `unusual_volume`; absent where they go",
    )
    blocked: list[str] = Field(
        description="Of the accepted: those who opted out. They are not texted unless that is lifted before"
    )
    messages: list[QueuedMessage]


class ResumeSending(OptionalBody):
    sender_id: Text | None = Field(None, description="Only this sender id; absent: everything")


class Resumed(BaseModel):
    resumed: int = Field(description="How many pauses were lifted")
