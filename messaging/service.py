from __future__ import annotations

from dataclasses import dataclass

from messaging.callbacks.receive import Inbox
from messaging.sending.triggers import TriggerSender
from messaging.storage.database import Database
from utils.settings import Settings
from utils.sms_utils import ProviderClient


@dataclass(frozen=True, slots=True)
class Service:
    """What the skins (HTTP, commands, worker) hold: the parts that live as long as the process."""

    settings: Settings
    database: Database
    provider: ProviderClient
    inbox: Inbox
    triggers: TriggerSender


def build_service(settings: Settings) -> Service:
    """Opens nothing yet: connections are made at first use, so that it may be built before a fork."""
    database = Database(settings.sqlalchemy_url, pool_size=settings.web_threads + 4)
    database.forwards = settings.forward_url is not None
    provider = ProviderClient.from_settings(settings)
    inbox = Inbox(database, settings)
    return Service(settings, database, provider, inbox, TriggerSender(settings, database, provider))
