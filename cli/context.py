"""What a command stands on: the service of the app it runs in."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, cast
from zoneinfo import ZoneInfo

from flask import current_app

from messaging.storage.database import Database
from utils.local_times import read_local_time

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


def time_zone() -> ZoneInfo:
    return ZoneInfo(current_service().settings.time_zone)


def read_phone_argument(phone: str) -> str:
    """E.164. Raises InvalidPhone."""
    from utils.phone_numbers import read_phone

    return read_phone(phone, current_service().settings.default_region).e164


def read_time(text: str) -> datetime:
    """A time a person typed; without an offset it is one of TIME_ZONE. Raises InvalidInput."""
    return read_local_time(text, time_zone())
