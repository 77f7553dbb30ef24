"""The service that test keys meet: all of the real code, on a store and a provider of its own.

A second `Service` stands beside the live one, built from the same settings. It has a database of its own
(TEST_KEYS_DATABASE_URL), and with it idempotency keys, order, circuit breaker, pauses, rate limit, prices, figures and
opt-outs of its own; a witness of its own; and in place of AT `utils.provider_stand_in`, which opens no connection.
So nothing that a test key does can reach AT, or a figure of the live account: they share no table.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from messaging.access import keys
from messaging.service import Service
from utils.setting_types import sqlite_path
from utils.settings import Settings

ACCOUNT = "test-keys"
# RFC 2606: a name that no resolver knows. Nothing resolves it, for the stand-in answers.
HOST = "http://test-keys.invalid"
WITNESS_FOLDER = "test-keys"
# Of the web threads: what test keys ask for at once leaves the others to the live account.
SHARE_OF_THREADS = 2


def settings_of(live: Settings) -> Settings:
    """What the live account has, but for store and provider, and for the brakes: nobody is there to release."""
    own: dict[str, Any] = {
        "database_url": live.test_keys_database_url,
        "witness_dir": str(Path(live.witness_dir) / WITNESS_FOLDER),
        "at_username": ACCOUNT,
        "at_api_key": ACCOUNT,
        "at_base_url": HOST,
        "daily_limit": None,
        "sender_daily_limits": {},
        "approval_above": None,
        "unusual_factor": None,
        "web_threads": max(1, live.web_threads // SHARE_OF_THREADS),
        "worker_concurrency": 1,
    }
    return live.model_copy(update=own)


class StoreOfTestKeys:
    """Opens the test service when it is first needed, once per process."""

    def __init__(self, live: Service) -> None:
        self._live = live
        self._opening = threading.Lock()
        self._service: Service | None = None

    def are_used(self) -> bool:
        """Whether there may be test data. A live database that was put back may know of no test key any more."""
        path = sqlite_path(self._live.settings.test_keys_database_url)
        return (path is not None and path.exists()) or keys.has_test_keys(self._live.database)

    def open(self) -> Service:
        """Migrated and claimed. Raises WrongDatabase, DatabaseIsNewer, StorageUnavailable, SQLAlchemyError."""
        # Not at the top: a command that only asks whether there are test keys needs no HTTP client.
        from messaging.operations.test_service import open_service

        with self._opening:
            if self._service is None:
                self._service = open_service(settings_of(self._live.settings))
            return self._service
