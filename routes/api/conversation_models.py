"""The shapes of two-way texts: what came, and the conversations they make."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from routes.api.models import Blank, Moment, Money, OptionalBody, Query, Status, Text, Time, WholeNumber
from utils.json_shapes import LARGEST_ID

Meaning = Literal["message", "stop", "start", "help", "join"]
ReplyOutcome = Literal[
    "queued",
    "waiting",
    "failed",
    "held",
    "cancelled",
    "opted_out",
    "off",
    "stop",
    "late",
    "own_number",
    "not_a_phone",
    "possible_opt_out",
]


class InboundQuery(Query):
    from_: Annotated[Text | None, Blank] = Field(
        None, alias="from", description="Only texts of this phone", examples=["+254711000001"]
    )
    to: Annotated[Text | None, Blank] = Field(None, description="Only texts to this number of ours")
    meaning: Annotated[Meaning | None, Blank] = Field(None, description="What the whole text was taken for")
    possible_opt_out: Annotated[bool | None, Blank] = Field(
        None, description="True: only texts that hold a stop word and more, which a person has to read"
    )
    reply: Annotated[ReplyOutcome | None, Blank] = Field(
        None, description="Only texts whose answer became this; `held` and `failed` wait for a person"
    )
    since: Annotated[Time | None, Blank] = Field(None, description="Received at this time or later")
    until: Annotated[Time | None, Blank] = Field(None, description="Received before this time")


class InboundPath(BaseModel):
    id: int = Field(description="The inbound message's id")


class InboundItem(BaseModel):
    id: int
    provider_inbound_id: str
    from_: str = Field(alias="from")
    to: str = Field(description="The number of ours that it came to")
    text: str
    meaning: Meaning
    possible_opt_out: bool = Field(
        description="It holds a stop word and more: not obeyed, not echoed, for a person to read"
    )
    link_id: str | None = Field(description="Of an on-demand text; its answer goes through the content host")
    network: str | None
    cost: Money | None
    provider_date: str | None = Field(description="The date as Africa's Talking wrote it; it orders nothing")
    received_at: Moment
    callback_id: int | None = Field(description="The raw body in the journal")
    reply: str | None = Field(
        description="What became of its answer: the status of the text that was queued, as messages have it;"
        " else a word that the filter of this name lists"
    )
    reply_tries: int = Field(description="How often a reply handler was given it")
    reply_error: str | None = Field(description="Why the handler failed")
    held_texts: list[str] = Field(description="What the loop breaker holds")


class InboundPage(BaseModel):
    items: list[InboundItem]
    next_cursor: str | None = Field(description="Null on the last page")


class ConversationsQuery(Query):
    unread: Annotated[bool | None, Blank] = Field(None, description="True: only those with unread texts")


class ConversationQuery(Query):
    pass


class PhonePath(BaseModel):
    phone: str = Field(description="The other side's phone number", examples=["+254711000001"])


class Line(BaseModel):
    """One text of either direction; what belongs to the other direction is absent."""

    direction: Literal["in", "out"]
    id: int = Field(description="Of the inbound message, or of the message")
    at: Moment = Field(description="By our own clock")
    text: str
    number: str | None = Field(description="The sender id of ours")
    meaning: Meaning | None = None
    possible_opt_out: bool | None = None
    reply: str | None = None
    provider_date: str | None = None
    status: Status | None = None
    origin: str | None = None
    inbound_id: int | None = Field(None, description="The inbound message that it answers")


class ConversationItem(BaseModel):
    phone: str
    number: str = Field(description="The number of ours that it wrote to last")
    unread: int
    last_inbound_id: int
    last_inbound_at: Moment
    latest: Line | None = Field(description="The latest text of either direction")


class ConversationPage(BaseModel):
    items: list[ConversationItem]
    next_cursor: str | None = Field(description="Null on the last page")


class Conversation(BaseModel):
    phone: str
    number: str
    unread: int
    items: list[Line] = Field(description="Latest first")
    next_cursor: str | None = Field(description="Null on the last page")


class MarkRead(OptionalBody):
    up_to: WholeNumber | None = Field(
        None, ge=0, le=LARGEST_ID, description="The last inbound id that was read; absent: all of them"
    )


class Unread(BaseModel):
    unread: int = Field(description="How many texts are unread still")


class Say(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = Field(examples=["We open at nine"])


class Said(BaseModel):
    id: int = Field(description="The message's id")
    to: str
    sender_id: str
    status: Status
