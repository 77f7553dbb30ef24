"""What a command stands on: the service of the app it runs in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from flask import current_app

from messaging.storage.database import Database
from utils.errors import InvalidInput

if TYPE_CHECKING:
    from messaging.service import Service


def current_service() -> Service:
    return cast("Service", current_app.extensions["sms"])


def current_database() -> Database:
    return current_service().database


def require_own_database(service: Service) -> None:
    """Raises NotMigrated, WrongDatabase."""
    from messaging.operations.account_check import claim_identity
    from messaging.operations.health import require_migrated

    require_migrated(service.database)
    claim_identity(service.database, service.settings)


def read_time(text: str) -> datetime:
    """A time a person typed; without a zone it is UTC. Raises InvalidInput."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is not a time like 2026-11-24T08:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
