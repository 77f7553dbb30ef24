"""Sending through Africa's Talking: the client the service uses, and plain functions for any script.

    from utils.sms_utils import send_bulk_sms
    send_bulk_sms("Maintenance at 2 AM", ["+254712345678", "+254723456789"])

The functions need AT_USERNAME and AT_API_KEY when called, not when imported, and neither the app nor a
database: they keep no records, so an opt-out is not known here. This is the only module that imports the SDK,
which builds the form and the URLs; its transport is replaced (see `provider_transport`) and its
`initialize`, which rebinds one account for the whole process, is never called.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from africastalking.SMS import SMSService
from requests.adapters import BaseAdapter

from utils.bare_sends import as_list, check_recipients, check_text, send_in_posts, send_with_retries
from utils.errors import (
    InvalidPhone,
    MissingCredentials,
    MissingShortcode,
    NoRecipients,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderUnreachable,
)
from utils.money import Money, parse_money
from utils.phone_numbers import read_phone
from utils.provider_answers import SendAnswer, read_json, read_send_answer
from utils.provider_codes import describe_status
from utils.provider_transport import ProviderTransport, Reply
from utils.settings import Settings, load_settings
from utils.texts import compose

__all__ = [
    "AT_SHORTCODE",
    "ProviderClient",
    "describe_status",
    "safe_send_sms",
    "send_bulk_sms",
    "send_sms_with_retry",
    "send_twoway_sms",
    "validate_and_send",
]

logger = logging.getLogger(__name__)

AT_SHORTCODE: str | None = None  # None: as set when the function is called, so that importing needs nothing
_LONGEST_ANSWER = 2_000_000
_MOST_CLIENTS = 16
_CLIENTS: dict[tuple[object, ...], "ProviderClient"] = {}

Answer = dict[str, Any]


class _Limit(NamedTuple):
    """`seconds` None: as the client has it."""

    seconds: float | None = None
    not_after: float | None = None


class ProviderClient(SMSService):
    """One account at AT, for all threads of a process. The inherited methods return a `Reply`, not JSON.

    `base_url`: scheme://host[:port] for all calls; without it AT's hosts, by user name.
    `timeout_seconds`: total time of a call that names no deadline. `pool_size`: connections kept open.
    `adapter`: what answers in AT's place, without any connection.
    """

    _baseUrl: str  # noqa: N815 (the SDK names it)
    _contentUrl: str  # noqa: N815

    def __init__(
        self,
        username: str,
        api_key: str,
        base_url: str | None = None,
        timeout_seconds: float = 60,
        pool_size: int = 32,
        adapter: BaseAdapter | None = None,
    ) -> None:
        if not username or not api_key:
            raise MissingCredentials
        if not api_key.isascii() or not api_key.isprintable():
            raise MissingCredentials("AT_API_KEY holds a character that no request can carry")
        self._given_base_url = base_url.rstrip("/") if base_url else None
        self._timeout_seconds = timeout_seconds
        self._transport = ProviderTransport(pool_size, adapter)
        super().__init__(username, api_key)
        self._headers = {
            "Accept": "application/json",  # AT's default is XML
            "Accept-Encoding": "gzip",
            "User-Agent": "sms-service (africastalking)",
            "apiKey": api_key,
        }

    @classmethod
    def from_settings(cls, settings: Settings, adapter: BaseAdapter | None = None) -> "ProviderClient":
        """The service's client: the account that is set, or the offline simulator's."""
        return cls(
            settings.provider_username,
            settings.provider_api_key,
            settings.at_base_url,
            settings.at_timeout_seconds,
            pool_size=settings.web_threads + settings.worker_concurrency,
            adapter=adapter,
        )

    def send_texts(
        self,
        text: str,
        recipients: Sequence[str],
        sender_id: str | None,
        *,
        deadline_seconds: float | None = None,
        not_after: float | None = None,
        link_id: str | None = None,
        keyword: str | None = None,
    ) -> SendAnswer:
        """One POST to `recipients` (E.164, checked by the caller), and what AT said of each of them.

        `not_after`: a moment of `boot_clock()` behind which nothing leaves, however long this thread slept.
        `link_id` or `keyword` make it a premium message, through AT's content host. Raises only
        ProviderErrors, whose `not_sent` or `unknown` names the recipients, and NoRecipients.
        """
        numbers = list(dict.fromkeys(recipients))
        if not numbers:
            raise NoRecipients
        text = compose(text)
        # The SDK hands its timeout down to `_make_request` as it is.
        limit = _Limit(deadline_seconds, not_after)
        try:
            if link_id or keyword:
                reply = self.send_premium(text, sender_id, numbers, keyword, link_id, timeout=limit)
            else:
                reply = self.send(text, numbers, sender_id, enqueue=True, timeout=limit)
        except ProviderError as error:
            error.concerns(numbers)
            raise
        except ValueError as error:  # the SDK's own check of the numbers, before it writes anything
            refusal = ProviderRefused(reason="invalid_phone")
            refusal.concerns(numbers)
            raise refusal from error
        return read_send_answer(reply, numbers)

    def fetch_balance(self, *, deadline_seconds: float | None = None) -> Money:
        """What is left on the account; may be negative. Sends nothing. Raises a ProviderError, `not_sent`."""
        url, params = self._make_url("/user"), {"username": self._username}
        found = self._get(url, params, deadline_seconds)
        account = found.get("UserData") or found.get("userData")  # recorded, and as the documents have it
        balance = account.get("balance") if isinstance(account, dict) else None
        money = parse_money(balance) if isinstance(balance, str) else None
        if money is None:
            raise ProviderUnreachable(reason="unreadable_answer", response=found)
        return money

    def fetch_inbox(
        self, last_received_id: int | str = 0, *, deadline_seconds: float | None = None
    ) -> list[dict[str, Any]]:
        """Up to 100 inbound messages after that id, oldest first, in AT's words; empty at the end."""
        params = {"username": self._username, "lastReceivedId": str(last_received_id)}
        found = self._get(self._make_url("/messaging"), params, deadline_seconds)
        content = found.get("SMSMessageData")
        messages = content.get("Messages") if isinstance(content, dict) else None
        if not isinstance(messages, list):
            raise ProviderUnreachable(reason="unreadable_answer", response=found)
        return [message for message in messages if isinstance(message, dict)]

    def close(self) -> None:
        self._transport.close()

    def _get(self, url: str, params: dict[str, str], deadline_seconds: float | None) -> Answer:
        limit = _Limit(deadline_seconds)
        reply = self._make_request(url, "GET", self._headers, None, params, timeout=limit)
        try:
            return read_json(reply)
        except OutcomeUnknown as error:  # of a question, not of a send
            raise ProviderUnreachable(reason=error.reason, http_status=error.http_status) from error

    def _init_service(self) -> None:
        super()._init_service()
        if self._given_base_url:
            self._baseUrl = self._contentUrl = self._given_base_url + "/version1"

    def _make_request(
        self,
        url: str,
        method: str,
        headers: dict[str, str],
        data: dict[str, Any] | None,
        params: dict[str, str] | None,
        callback: None = None,
        timeout: "_Limit | None" = None,
    ) -> Reply:
        limit = timeout or _Limit()
        if callback is not None:
            raise NotImplementedError("the SDK's threads lose errors; call this from a thread of your own")
        # `enqueue` is always said: AT documents 1 as the default, its sandbox behaves as if it were 0.
        form = None if data is None else data | {"enqueue": 1}
        return self._transport.exchange(
            method,
            url,
            headers=headers,
            params=params,
            form=form,
            deadline_seconds=self._timeout_seconds if limit.seconds is None else limit.seconds,
            not_after=limit.not_after,
            longest_answer=_LONGEST_ANSWER + 64 * len(form["to"] if form else ""),
        )


def send_bulk_sms(message: str, recipients: list[str]) -> Answer:
    """Sends one text to many. Returns AT's answer, one dict also where it took several POSTs.

    `SMSMessageData.Recipients` has an entry with `statusCode` per number: look at it, for AT may refuse
    some. `Missing`, our own key, lists numbers that AT left out: whether they were sent to is unknown.
    Raises InvalidInput (a ValueError) before anything is sent, MissingCredentials, and ProviderError with
    `.response`, `.not_sent` and `.unknown`.
    """
    text, numbers = check_text(message), check_recipients(recipients)
    settings, client = _connect()
    answer = send_in_posts(client, text, numbers, settings.at_sender_id, settings.at_max_recipients)
    logger.info("bulk SMS answered", extra={"recipients": len(numbers)})
    return answer


def send_twoway_sms(message: str, recipient: str, shortcode: str | None = AT_SHORTCODE) -> Answer:
    """Sends one text from a shortcode, so that the recipient can reply. `shortcode`: AT_SHORTCODE if None.

    Returns and raises as `send_bulk_sms`; MissingShortcode where neither is given.
    """
    text, numbers = check_text(message), check_recipients([recipient])
    settings, client = _connect()
    sender_id = shortcode or settings.at_shortcode
    if not sender_id:
        raise MissingShortcode(field="shortcode")
    answer = send_in_posts(client, text, numbers, sender_id, 1)
    logger.info("two-way SMS answered", extra={"recipients": 1})
    return answer


def send_sms_with_retry(message: str, recipients: list[str], retries: int = 3) -> Answer:
    """`send_bulk_sms` in up to `retries` attempts, with 1, 2, 4 … seconds or AT's `Retry-After` between them.

    Only what was certainly not sent is tried again. What is unknown stays so: the call then ends with
    OutcomeUnknown, even where all else went out.
    """
    numbers = check_recipients(recipients)
    return send_with_retries(partial(send_bulk_sms, message), numbers, max(retries, 1))


def safe_send_sms(message: str, recipients: list[str]) -> Answer:
    """`send_bulk_sms` for numbers that may lack their plus or be impossible; DEFAULT_REGION counts.

    `Skipped`, our own key, lists those that cannot be used as they were given. ValueError `No valid recipients`
    where none is left.
    """
    text, region = check_text(message), load_settings(for_service=False).default_region
    valid, skipped = [], []
    for phone in as_list(recipients):
        try:
            valid.append(read_phone(phone, region).e164)
        except InvalidPhone:
            skipped.append(phone if isinstance(phone, str) else repr(phone))
    if not valid:
        raise NoRecipients("No valid recipients", field="recipients", details={"Skipped": skipped})
    return send_bulk_sms(text, valid) | {"Skipped": skipped}


def validate_and_send(message: str, phone: str) -> Answer | None:
    """`send_twoway_sms` to a number that may lack its plus; None for one that cannot be used."""
    try:
        number = read_phone(phone, load_settings(for_service=False).default_region).e164
    except InvalidPhone as error:
        logger.warning("number refused", extra={"reason": error.code})
        return None
    return send_twoway_sms(message, number)


def _connect() -> tuple[Settings, ProviderClient]:
    settings = load_settings(for_service=False)
    needed = {"AT_USERNAME": settings.at_username, "AT_API_KEY": settings.at_api_key}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise MissingCredentials(
            f"Set {' and '.join(missing)} to send through Africa's Talking; to try it beside `make run`, where"
            " nothing leaves this machine, set AT_USERNAME=sandbox, AT_API_KEY=offline and"
            f" AT_BASE_URL={settings.simulator_url}"
        )
    # By process, for two that share a connection after a fork would read each other's answers.
    key = (os.getpid(), *needed.values(), settings.at_base_url, settings.at_timeout_seconds)
    client = _CLIENTS.get(key)
    if client is None:
        if len(_CLIENTS) >= _MOST_CLIENTS:
            _CLIENTS.clear()
        client = _CLIENTS.setdefault(key, ProviderClient.from_settings(settings))
    return settings, client
