"""The shapes of files taken in and of quotes."""

from __future__ import annotations

from typing import Annotated, Any, BinaryIO, Literal, cast

from flask import request
from flask_openapi.models.file import FileStorage
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from messaging.batches.upload import BatchRequest
from routes.api.models import Blank, Money, SendTime, Text, Warned
from routes.api.send_models import SendMessages
from routes.uploads import MULTIPART


class UploadedFile(FileStorage):
    @classmethod
    def validate(cls, value: Any, *_arguments: Any, **_named: Any) -> Any:
        """A part with a file name; flask-openapi lets a plain field pass, too."""
        if not isinstance(value, FileStorage.__mro__[1]):
            raise PydanticCustomError("no_file", "Send a file in this part, with a file name")
        return value


OnUnknown = Literal["hold", "resend", "fail"]
# Strings that may be absent are "" here: flask-openapi would read a form's `null | string` as JSON, and 20880
# would come as a number.
FILE = Field(description="CSV or .xlsx with a header row, one column of it `phone`; up to 512 MiB")
TEXT = Field(
    description="May hold `{{column}}`, and `{{column|default}}` for cells that may be empty",
    examples=["Dear {{name}}, school closes at noon"],
)
SENDER = Field("", description="Instead of AT_SENDER_ID: a shortcode or a registered name")


class UploadBatch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: UploadedFile = FILE
    text: str = TEXT
    sender_id: str = SENDER
    name: str = Field("", description="For people", max_length=200)
    send_at: Annotated[SendTime | None, Blank] = Field(None, description="Not before this time (RFC 3339)")
    expires_at: Annotated[SendTime | None, Blank] = Field(
        None, description="Not after this time (RFC 3339); what is left then is `expired`"
    )
    max_cost: str = Field(
        "",
        description="The batch is paused before it would pass this; as JSON, too:"
        ' `{"amount": "5000.00", "currency": "KES"}`',
        examples=["KES 5000.00"],
    )
    phone_column: Annotated[Text | None, Blank] = Field(
        None, description="The column of the numbers, where it has another name or several may be meant"
    )
    sheet: Annotated[Text | None, Blank] = Field(
        None, description="Of an Excel file; its first one if absent"
    )
    default_region: Annotated[Text | None, Blank] = Field(
        None,
        description="Two letters: the country of the file's numbers without a country code, instead of DEFAULT_REGION",
        examples=["KE"],
    )
    max_refused: Annotated[float | None, Blank] = Field(
        None,
        ge=0,
        le=1,
        description="A share: where more of the rows are refused, nothing is sent and the batch is cancelled,"
        " `too_many_refused`",
        examples=[0.2],
    )
    on_unknown: Annotated[OnUnknown, Blank] = Field(
        "hold", description="When the provider's answer is lost: as in `POST /v1/messages`"
    )
    again: Annotated[bool | None, Blank] = Field(
        None,
        description="False: where the same file was sent with the same text within the last day, nothing is"
        " taken and the answer is 409 `already_sent`. Absent or true: nobody looks",
    )

    @property
    def stream(self) -> BinaryIO:
        return cast(BinaryIO, self.file.stream)

    def as_request(self) -> BatchRequest:
        return BatchRequest(
            self.text,
            self.sender_id or None,
            self.name or None,
            self.send_at,
            self.expires_at,
            self.on_unknown,
            self.max_cost or None,
            self.phone_column,
            self.max_refused,
            self.sheet,
            self.default_region,
        )


class ReceivedBatch(BaseModel):
    id: int
    status: Literal["receiving"]


class QuoteFile(UploadBatch):
    """As a batch. Where the request is no form, `QuoteMessages` reads it and this is None."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Any:
        return super().model_validate(obj, **options) if request.mimetype == MULTIPART else None


class QuoteMessages(SendMessages):
    """As messages. Where the request is a form, `QuoteFile` reads it and this is None."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Any:
        return None if request.mimetype == MULTIPART else super().model_validate(obj, **options)


class QuoteRefusal(BaseModel):
    line: int = Field(
        description="Where the row begins in the file; of typed numbers their place in the list"
    )
    to: str
    code: str
    message: str


class Spill(BaseModel):
    to: str
    parts: int
    character: str | None = Field(description="What makes it longer; null where it is simply long")
    suggestion: str | None = Field(description="What to write instead; null where nothing fits")


class Sample(BaseModel):
    to: str
    text: str = Field(description="Filled in, as its recipient would read it")


class RegionHint(BaseModel):
    region: str = Field(examples=["KE"])
    taken: int


class QuoteAnswer(Warned):
    recipients: int = Field(
        description="Texts that would be taken, each number and text once, opted out ones included"
    )
    refused: list[QuoteRefusal] = Field(description="The first 10,000")
    refused_total: int
    with_region: list[RegionHint] = Field(
        description="Where no `default_region` and no DEFAULT_REGION is set: how many of `refused` each of three takes"
    )
    opted_out: int = Field(description="How many of them would be blocked; nothing below counts them")
    no_consent: int = Field(description="How many others would be blocked because they have not agreed")
    duplicates: int
    duplicate_rows: list[QuoteRefusal] = Field(description="The first 100 of a file")
    parts: int = Field(description="Billed pieces of all texts")
    encodings: dict[str, int] = Field(description="Texts by encoding", examples=[{"GSM-7": 480, "UCS-2": 20}])
    spills: list[Spill] = Field(description="The first 100 texts of more than one part")
    samples: list[Sample] = Field(description="The first twenty texts")
    estimated_cost: Money | Literal["unknown"] = Field(
        description="From the last price seen for each network or its country; `unknown` where one was never seen,"
        " or where currencies differ"
    )
    estimated_costs: list[Money] = Field(description="By currency, as far as prices are known")
    unpriced: int = Field(description="Texts to networks and countries without a known price")


class DifferingMessage(BaseModel):
    id: int
    estimated_parts: int
    billed_parts: int


class Bill(BaseModel):
    messages: int = Field(description="Messages whose parts Africa's Talking stated")
    estimated_parts: int = Field(description="Their parts as we counted them")
    billed_parts: int = Field(description="Their parts as Africa's Talking counted them")
    differing: int = Field(description="Messages where the two differ")
    estimated_costs: list[Money] = Field(
        description="What a quote would say today, by currency: our parts at the last price seen for each network"
    )
    billed_costs: list[Money] = Field(description="What Africa's Talking billed, by currency")
    unpriced: int = Field(description="Messages to networks and countries without a known price")
    examples: list[DifferingMessage] = Field(description="The first 20 of these")
