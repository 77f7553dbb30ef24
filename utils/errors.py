"""Everything this service refuses or fails with. Each error carries its decision, its word and its sentence.

    ServiceError
      InvalidInput (also a ValueError)       what the caller gave cannot be used
        EmptyMessage                         empty_message
        NoRecipients                         no_recipients
        InvalidPhone                         invalid_phone, excel_notation
        MissingShortcode                     missing_shortcode
      MissingCredentials                     missing_credentials
      Unauthorised                           unauthorised
      Forbidden                              forbidden
        OptedOut                             opted_out
        NoConsent                            no_consent
      NotFound                               not_found
      Conflict                               conflict
      Busy                                   busy
        TooSlow                              too_slow
      StorageUnavailable                     storage_unavailable
      WitnessUnwritable                      witness_unwritable
      Recovering                             recovering
      AcceptanceUnknown                      acceptance_unknown
      BackupFailed                           backup_failed
      ProviderError                          talking to Africa's Talking
        ProviderUnreachable                  provider_unavailable   not_sent   retryable
        ProviderThrottled                    provider_unavailable   not_sent   retryable
        ProviderRefused                      provider_refused       not_sent
          CredentialsRefused                 provider_refused       not_sent   pauses the account
          SenderRefused                      provider_refused       not_sent   pauses the sender id
        OutcomeUnknown                       outcome_unknown        unknown    never resent by itself

Which HTTP status an error becomes is the routes' business.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from utils import reasons

Outcome = Literal["not_sent", "unknown"]
Pause = Literal["account", "sender"]


class ServiceError(Exception):
    """`code`: word for programs. `message`: sentence for people. `field`: the input at fault, by its name.

    `details`: whatever else a caller may act on, made of JSON's types.
    """

    code: str = "service_error"
    sentence: ClassVar[str] = "The service failed"

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        field: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        self.message = message or self.sentence
        self.code = code or self.code
        self.field = field
        self.details = details or {}
        super().__init__(self.message)


class InvalidInput(ServiceError, ValueError):
    code = "invalid_input"
    sentence = "The input cannot be used"


class EmptyMessage(InvalidInput):
    code = "empty_message"
    sentence = "Message cannot be empty"


class NoRecipients(InvalidInput):
    code = "no_recipients"
    sentence = "Recipients list cannot be empty"


class InvalidPhone(InvalidInput):
    code = "invalid_phone"
    sentence = "This is not a phone number"


class MissingShortcode(InvalidInput):
    code = "missing_shortcode"
    sentence = "Two-way messages need a shortcode: set AT_SHORTCODE or name one"


class MissingCredentials(ServiceError):
    code = "missing_credentials"
    sentence = "Set AT_USERNAME and AT_API_KEY to send through Africa's Talking"


class Unauthorised(ServiceError):
    code = "unauthorised"
    sentence = "A valid key is required"


class Forbidden(ServiceError):
    code = "forbidden"
    sentence = "This is not allowed"


class OptedOut(Forbidden):
    code = reasons.OPTED_OUT
    sentence = "The recipient opted out"


class NoConsent(Forbidden):
    code = reasons.NO_CONSENT
    sentence = "The recipient has not agreed to texts from this sender"


class NotFound(ServiceError):
    code = "not_found"
    sentence = "There is no such thing here"


class Conflict(ServiceError):
    code = "conflict"
    sentence = "This does not fit the present state"


class Busy(ServiceError):
    code = "busy"
    sentence = "Too many sends are under way; try again in a moment"


class TooSlow(Busy):
    code = "too_slow"
    sentence = "The database takes too long over this: ask for less, or at a quieter hour"


class StorageUnavailable(ServiceError):
    code = "storage_unavailable"
    sentence = "The database cannot be used now"


class WitnessUnwritable(ServiceError):
    """Nothing is sent that the witness does not hold: after a restore it would be sent again."""

    code = "witness_unwritable"
    sentence = "WITNESS_DIR cannot be written, so nothing is sent"


class Recovering(ServiceError):
    code = "recovering"
    sentence = "The database was put back to an earlier state; until it is known what has left since, nothing is sent"


class AcceptanceUnknown(ServiceError):
    """The database did not tell whether a write was done. Never an invitation to try again without the key."""

    code = "acceptance_unknown"
    sentence = "The request may have been accepted; repeat only with the same Idempotency-Key"


class BackupFailed(ServiceError):
    code = "backup_failed"
    sentence = "The backup could not be made"


class ProviderError(ServiceError):
    """A POST that did not end in an answer per recipient.

    `outcome`: `not_sent` (no recipient can get a text from this POST) or `unknown` (any may).
    `reason`: our word for the cause. `retryable`: a later try may succeed and cannot send twice.
    `http_status`: AT's, where it answered. `retry_after`: seconds AT asked us to wait.
    `pauses`: what must rest until a person or the probe has acted.
    `response`: AT's JSON, of this POST or merged over the earlier POSTs of one call; None without any.
    `not_sent`, `unknown`: recipients that certainly got nothing, and those that may have.
    """

    code = "provider_error"
    sentence = "Africa's Talking could not be used"
    outcome: ClassVar[Outcome] = "unknown"
    retryable: bool = False
    pauses: Pause | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: str,
        http_status: int | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
        pauses: Pause | None = None,
        response: dict[str, Any] | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.reason = reason
        self.http_status = http_status
        self.retry_after = retry_after
        self.retryable = self.retryable if retryable is None else retryable
        self.pauses = pauses or self.pauses
        self.response = response
        self.not_sent: list[str] = []
        self.unknown: list[str] = []

    def concerns(self, recipients: Iterable[str]) -> None:
        """Adds the recipients of the failed POST to the list that `outcome` names."""
        (self.not_sent if self.outcome == "not_sent" else self.unknown).extend(recipients)


class ProviderUnreachable(ProviderError):
    code = "provider_unavailable"
    sentence = "Africa's Talking could not be reached; nothing was sent"
    outcome = "not_sent"
    retryable = True


class ProviderThrottled(ProviderError):
    code = "provider_unavailable"
    sentence = "Africa's Talking asks us to slow down; nothing was sent"
    outcome = "not_sent"
    retryable = True


class ProviderRefused(ProviderError):
    code = "provider_refused"
    sentence = "Africa's Talking refused the request; nothing was sent"
    outcome = "not_sent"


class CredentialsRefused(ProviderRefused):
    sentence = "Africa's Talking refuses AT_USERNAME with AT_API_KEY (a new key needs about three minutes)"
    pauses = "account"


class SenderRefused(ProviderRefused):
    sentence = "Africa's Talking does not know this sender id for this account"
    pauses = "sender"


class OutcomeUnknown(ProviderError):
    code = "outcome_unknown"
    sentence = "The answer of Africa's Talking was lost; the texts may have been sent"
    outcome = "unknown"
