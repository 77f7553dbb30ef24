"""The JSON API: who agreed to be texted, to what words, and how we know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask_openapi.models.tag import Tag
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from messaging.consent import consents
from routes.api.common import DEFAULT_LIMIT, create_blueprint, read_phone_field
from routes.api.conversation_models import PhonePath
from routes.api.models import Blank, ErrorAnswer, Moment, OptionalBody, Query, Text, optional_body
from routes.api.opt_outs import Sender
from routes.service import current_database

CALLERS = "Holders of an API key."
API = "api"
CONSENTS = Tag(name="Consents", description="Who agreed to be texted, to what words, and how we know.")


def _without_nulls(text: str) -> str:
    return text.replace("\0", "\ufffd")


Short = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_without_nulls)]
Long = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_without_nulls)]

consents_api = create_blueprint("consents", __name__)


class ConsentsQuery(Query):
    phone: Annotated[Text | None, Blank] = Field(None, description="Only this recipient")
    in_force: Annotated[bool | None, Blank] = Field(None, description="True: only what counts now")


class Consent(BaseModel):
    id: int
    at: Moment
    phone: str
    action: Literal["give", "withdraw"]
    sender_id: str | None = Field(description="Null: everything that we send")
    purpose: str | None
    wording: str | None = Field(description="The words that the person agreed to")
    wording_version: str | None
    source: str = Field(description="Where it was said")
    evidence: str | None
    in_force: bool


class ConsentPage(BaseModel):
    items: list[Consent]
    next_cursor: str | None = Field(description="Null on the last page")


class GiveConsent(OptionalBody):
    sender_id: Sender | None = Field(
        None, description="Only texts from this sender; absent: all that we send"
    )
    purpose: Short | None = Field(None, description="What the texts are for", examples=["offers"])
    wording: Long | None = Field(None, description="The words that the person agreed to")
    wording_version: Short | None = Field(None, examples=["2027-01"])
    source: Short = Field(API, description="Where it was said; `api` by default", examples=["signup form"])
    evidence: Long | None = Field(None, description="How it can be shown, e.g. the number of the form")


class WithdrawQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sender_id: Annotated[Text | None, Blank] = Field(None, description="Only the consent for this sender")
    source: Annotated[Short | None, Blank] = Field(None, description="Where it was said")
    evidence: Annotated[Long | None, Blank] = Field(None, description="How it can be shown")


class Given(BaseModel):
    phone: str
    added: bool = Field(description="False where the same was in force already")
    consents: list[Consent] = Field(description="All that are in force now")


class Withdrawn(BaseModel):
    phone: str
    withdrawn: int
    consents: list[Consent] = Field(description="What is in force still")


@consents_api.get("/consents", tags=[CONSENTS], responses={200: ConsentPage, 400: ErrorAnswer})
def show_consents(query: ConsentsQuery) -> dict[str, Any]:
    """The ledger of consents, newest first."""
    phone = None if query.phone is None else read_phone_field(query.phone, "phone")
    limit, in_force = query.limit or DEFAULT_LIMIT, bool(query.in_force)
    return consents.list_consents(
        current_database(), phone, in_force=in_force, cursor=query.cursor, limit=limit
    )


@consents_api.put(
    "/consents/<phone>",
    tags=[CONSENTS],
    request_body=optional_body(GiveConsent),
    responses={200: Given, 400: ErrorAnswer},
)
def put_consent(path: PhonePath, body: GiveConsent) -> dict[str, Any]:
    """Writes down that a recipient agreed to be texted."""
    phone = read_phone_field(path.phone, "phone")
    terms = consents.Terms(**body.model_dump(exclude={"sender_id"}))
    return consents.give(current_database(), phone, body.sender_id, terms)


@consents_api.delete(
    "/consents/<phone>", tags=[CONSENTS], responses={200: Withdrawn, 400: ErrorAnswer, 404: ErrorAnswer}
)
def withdraw_consent(path: PhonePath, query: WithdrawQuery) -> dict[str, Any]:
    """Withdraws a recipient's consents, or the one for one sender id."""
    phone = read_phone_field(path.phone, "phone")
    terms = consents.Terms(query.source or API, evidence=query.evidence)
    return consents.withdraw(current_database(), phone, query.sender_id, terms)
