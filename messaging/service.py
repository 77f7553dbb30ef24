"""What the skins (HTTP, commands, worker) hold: the parts that live as long as the process."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING

from messaging.storage.database import Database
from utils.settings import Settings

if TYPE_CHECKING:
    from messaging.callbacks.receive import CallbackReceiver
    from messaging.costs.balance import Balance
    from messaging.sending.triggers import TriggerSender
    from utils.sms_utils import ProviderClient


class Service:
    """Each part is imported and made at first use, so that a command pays only for what it needs.

    Opens nothing yet: connections are made at first use, so that it may be built before a fork.
    """

    # messaging.operations.store_of_test_keys
    is_test = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.sqlalchemy_url, pool_size=settings.web_threads + 4)
        self.database.forwards = settings.forward_url is not None

    def make_parts(self) -> None:
        _ = self.provider, self.callback_receiver, self.triggers, self.balance

    @cached_property
    def provider(self) -> ProviderClient:
        from utils.sms_utils import ProviderClient

        return ProviderClient.from_settings(self.settings)

    @cached_property
    def balance(self) -> Balance:
        from messaging.costs.balance import Balance, keep

        return Balance(self.provider, partial(keep, self.database))

    @cached_property
    def callback_receiver(self) -> CallbackReceiver:
        from messaging.callbacks.receive import CallbackReceiver

        return CallbackReceiver(self.database, self.settings)

    @cached_property
    def triggers(self) -> TriggerSender:
        from messaging.sending.triggers import TriggerSender

        return TriggerSender(self.settings, self.database, self.provider)


def build_service(settings: Settings) -> Service:
    """With every part made, for a process with threads that would else make one twice."""
    service = Service(settings)
    service.make_parts()
    return service
