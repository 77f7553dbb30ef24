"""How a view reaches the service that `create_app` put into the app."""

from __future__ import annotations

from typing import cast

from flask import current_app

from messaging.service import Service
from messaging.storage.database import Database

EXTENSION = "sms"


def current_service() -> Service:
    return cast(Service, current_app.extensions[EXTENSION])


def current_database() -> Database:
    return current_service().database
