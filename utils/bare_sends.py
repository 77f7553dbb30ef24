"""Behind the plain functions of `sms_utils`: what they check, and how they send to more than one POST holds."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from utils.answer_merging import merge_answers
from utils.errors import EmptyMessage, InvalidInput, InvalidPhone, NoRecipients, ProviderError
from utils.phone_numbers import mask_phone, require_e164
from utils.provider_answers import SendAnswer
from utils.texts import is_blank

LONGEST_BACKOFF_SECONDS = 60.0

logger = logging.getLogger(__name__)

Answer = dict[str, Any]


class TextSender(Protocol):
    def send_texts(self, text: str, recipients: Sequence[str], sender_id: str | None) -> SendAnswer: ...


def check_text(message: object) -> str:
    """Raises EmptyMessage, or InvalidInput for what is no text."""
    if message is None or (isinstance(message, str) and is_blank(message)):
        raise EmptyMessage(field="message")
    if not isinstance(message, str):
        raise InvalidInput("Message must be text", field="message")
    try:
        message.encode()
    except UnicodeEncodeError:
        raise InvalidInput("Message holds half of a character", field="message") from None
    return message


def check_recipients(recipients: object) -> list[str]:
    """The numbers without repetitions, in their order. Raises NoRecipients, InvalidPhone, InvalidInput."""
    numbers: dict[str, None] = {}
    for position, phone in enumerate(as_list(recipients)):
        try:
            number = require_e164(phone)
        except InvalidPhone as error:
            error.field, error.details = "recipients", {"position": position}
            raise
        if number.warning:
            logger.warning(number.warning, extra={"recipient": mask_phone(number.e164)})
        numbers[number.e164] = None
    if not numbers:
        raise NoRecipients(field="recipients")
    return list(numbers)


def as_list(recipients: object) -> list[object]:
    """Raises InvalidInput for a lone string, which Python would take for a list of its characters."""
    if recipients is None:
        return []
    if isinstance(recipients, str | bytes) or not isinstance(recipients, Iterable):
        raise InvalidInput("Recipients must be a list of numbers, like ['+254712345678']", field="recipients")
    return list(recipients)


def send_in_posts(
    client: TextSender, text: str, numbers: Sequence[str], sender_id: str | None, most_per_post: int
) -> Answer:
    """One merged answer. A POST that fails is the last; its error says what became of every number."""
    answers: list[SendAnswer] = []
    for start in range(0, len(numbers), most_per_post):
        end = start + most_per_post
        try:
            answers.append(client.send_texts(text, numbers[start:end], sender_id))
        except ProviderError as error:
            error.not_sent.extend(numbers[end:])
            error.unknown[:0] = [number for answer in answers for number in _unsettled(answer)]
            error.response = _merge([*map(_as_answer, answers), error.response])
            raise
    return merge_answers([_as_answer(answer) for answer in answers])


def send_with_retries(
    send: Callable[[Sequence[str]], Answer], recipients: list[str], attempts: int
) -> Answer:
    """Calls `send` with what was not sent so far, until all is or `attempts` are used up."""
    answers: list[Answer | None] = []
    failures: list[ProviderError] = []
    waiting: Sequence[str] = recipients
    for attempt in range(attempts):
        if attempt:
            time.sleep(_backoff_seconds(attempt, failures[-1]))
        try:
            answers.append(send(waiting))
            waiting = []
            break
        except ProviderError as error:
            failures.append(error)
            answers.append(error.response)
            waiting = error.not_sent
            if not _may_try_again(error):
                break
    return _conclude(answers, failures, waiting)


def _conclude(
    answers: Sequence[Answer | None], failures: Sequence[ProviderError], waiting: Sequence[str]
) -> Answer:
    unknown = [number for failure in failures for number in failure.unknown]
    if not waiting and not unknown:
        return merge_answers([answer for answer in answers if answer])
    # What may have been sent twice matters more than what was not: the caller must see the unknown first.
    error = next((failure for failure in reversed(failures) if failure.outcome == "unknown"), failures[-1])
    error.response, error.not_sent, error.unknown = _merge(answers), list(waiting), unknown
    raise error


def _may_try_again(error: ProviderError) -> bool:
    is_hopeless = error.outcome == "not_sent" and not error.retryable
    return bool(error.not_sent) and not is_hopeless and (error.retry_after or 0) <= LONGEST_BACKOFF_SECONDS


def _backoff_seconds(attempt: int, error: ProviderError) -> float:
    return min(max(2.0 ** (attempt - 1), error.retry_after or 0), LONGEST_BACKOFF_SECONDS)


def _unsettled(answer: SendAnswer) -> list[str]:
    return [number for number, found in answer.recipients.items() if found.outcome == "unknown"]


def _as_answer(answer: SendAnswer) -> Answer:
    return answer.raw | {"Missing": answer.missing} if answer.missing else answer.raw


def _merge(answers: Iterable[Answer | None]) -> Answer | None:
    present = [answer for answer in answers if answer]
    return merge_answers(present) if present else None
