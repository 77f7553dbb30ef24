"""While the account is paused: asking AT for the balance, which sends nothing, once a minute."""

from __future__ import annotations

import logging

from messaging.sending import circuit_breaker, pauses
from messaging.storage.database import Database
from utils.errors import ProviderError
from utils.sms_utils import ProviderClient

PROBE_DEADLINE_SECONDS = 10.0

logger = logging.getLogger(__name__)


def probe(database: Database, provider: ProviderClient) -> bool:
    """Whether the account's pause was lifted: AT took our key, and there is money."""
    if not pauses.take_probe(database):
        return False
    try:
        balance = provider.fetch_balance(deadline_seconds=PROBE_DEADLINE_SECONDS)
    except ProviderError as error:
        logger.warning("the account stays paused", extra={"reason": error.reason})
        return False
    if balance.amount <= 0:
        logger.warning("the account stays paused", extra={"reason": "insufficient_balance"})
        return False
    with database.write() as connection:
        pauses.resume(connection, pauses.ACCOUNT)
        # There may be money, and too little: one message finds out, not a full POST of every lane each minute.
        circuit_breaker.narrow(connection, database.now(connection))
    logger.info("sending resumed")
    return True
