"""The JSON API: who may not be texted, since when, and how we know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask_openapi.models.tag import Tag
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from messaging.consent.views import LedgerFilters, lift, list_entries, stop
from routes.api.common import DEFAULT_LIMIT, create_blueprint, read_phone_field
from routes.api.conversation_models import PhonePath
from routes.api.models import Blank, ErrorAnswer, Moment, OptionalBody, Query, Text, Time, optional_body
from routes.service import current_database
from utils.sender_ids import validate_sender

CALLERS = "Holders of an API key."
API = "api"
OPT_OUTS = Tag(name="Opt-outs", description="Who may not be texted, and how we know.")


def _check_sender(sender_id: str) -> str:
    validate_sender(sender_id)
    return sender_id


Action = Literal["stop", "start", "lift"]
Source = Literal["keyword", "callback", "refused_406", "report", "api", "import", "operator"]
Sender = Annotated[Text, AfterValidator(_check_sender)]
Reason = Annotated[str, Field(max_length=500), AfterValidator(lambda text: text.replace("\0", "\ufffd"))]

opt_outs_api = create_blueprint("opt_outs", __name__)


class LedgerQuery(Query):
    phone: Annotated[Text | None, Blank] = Field(None, description="Only this recipient")
    sender_id: Annotated[Text | None, Blank] = Field(None, description="Only blocks of this sender id")
    source: Annotated[Source | None, Blank] = Field(None, description="Only what is known from there")
    action: Annotated[Action | None, Blank] = Field(None, description="`lift` is an operator's word")
    in_force: Annotated[bool | None, Blank] = Field(None, description="True: only entries that block now")
    since: Annotated[Time | None, Blank] = Field(None, description="At this time or later")
    until: Annotated[Time | None, Blank] = Field(None, description="Before this time")


class Evidence(BaseModel):
    callback_id: int = Field(description="The raw body in the journal: `GET /v1/callbacks`")
    kind: str
    digest: str = Field(description="BLAKE2b (16 bytes, keyed with the kind) of the raw body, in hex")
    received_at: Moment


class LedgerItem(BaseModel):
    id: int
    at: Moment
    phone: str
    action: Action
    scope: Literal["all", "sender"]
    sender_id: str | None = Field(description="Null for scope `all`")
    source: Source
    detail: str | None
    in_force: bool
    evidence: Evidence | None = Field(description="Null where no callback reported it")


class LedgerPage(BaseModel):
    items: list[LedgerItem]
    next_cursor: str | None = Field(description="Null on the last page")


class StopTexting(OptionalBody):
    sender_id: Sender | None = Field(
        None, description="Only texts from this sender; absent: all that we send"
    )
    reason: Reason | None = Field(None, description="How it is known, for the ledger")


class LiftQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sender_id: Annotated[Text | None, Blank] = Field(None, description="Only the block for this sender")
    reason: Annotated[Reason | None, Blank] = Field(None, description="Why, for the ledger")


class Block(BaseModel):
    id: int = Field(description="The ledger entry that made it")
    scope: Literal["all", "sender"]
    sender_id: str | None
    source: Source
    at: Moment


class Stopped(BaseModel):
    phone: str
    added: bool = Field(description="False where the block stood already")
    blocks: list[Block] = Field(description="All that block this recipient now")


class Elsewhere(BaseModel):
    dial: str | None = Field(description="What the recipient can dial, where it is known")
    advice: str


class Lifted(BaseModel):
    phone: str
    lifted: int
    blocks: list[Block] = Field(description="What blocks this recipient still")
    elsewhere: Elsewhere | None = Field(
        description="Where the network or Africa's Talking blocks too: what the recipient can do"
    )


@opt_outs_api.get("/opt-outs", tags=[OPT_OUTS], responses={200: LedgerPage, 400: ErrorAnswer})
def show_opt_outs(query: LedgerQuery) -> dict[str, Any]:
    """The ledger of opt-outs, newest first."""
    given = query.model_dump(exclude={"cursor", "limit", "phone", "in_force"})
    phone = None if query.phone is None else read_phone_field(query.phone, "phone")
    filters = LedgerFilters(phone=phone, in_force=bool(query.in_force), **given)
    return list_entries(current_database(), filters, query.cursor, query.limit or DEFAULT_LIMIT)


@opt_outs_api.put(
    "/opt-outs/<phone>",
    tags=[OPT_OUTS],
    request_body=optional_body(StopTexting),
    responses={200: Stopped, 400: ErrorAnswer},
)
def put_opt_out(path: PhonePath, body: StopTexting) -> dict[str, Any]:
    """Stops texting a recipient."""
    phone = read_phone_field(path.phone, "phone")
    return stop(current_database(), phone, body.sender_id, body.reason, API)


@opt_outs_api.delete(
    "/opt-outs/<phone>", tags=[OPT_OUTS], responses={200: Lifted, 400: ErrorAnswer, 404: ErrorAnswer}
)
def lift_opt_out(path: PhonePath, query: LiftQuery) -> dict[str, Any]:
    """Lifts our blocks of a recipient; Africa's Talking then decides again."""
    phone = read_phone_field(path.phone, "phone")
    return lift(current_database(), phone, query.sender_id, query.reason, API)
