"""Opens the service that test keys meet: its store migrated and claimed, its provider the stand-in."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from messaging.callbacks.apply import apply_group
from messaging.callbacks.receive import read_callback
from messaging.operations.account_check import WrongDatabase, claim_identity
from messaging.service import Service
from messaging.storage import migrations, revisions
from messaging.storage.database import Database
from utils.provider_stand_in import CannotKeep, ProviderStandIn
from utils.settings import Settings
from utils.sms_utils import ProviderClient

FORM = "application/x-www-form-urlencoded"


def open_service(settings: Settings) -> Service:
    """Raises WrongDatabase, DatabaseIsNewer, StorageUnavailable, SQLAlchemyError."""
    service = Service(settings)
    service.is_test = service.database.is_test = True
    try:
        _prepare(service.database, settings)
    except BaseException:
        service.database.close()
        raise
    # No default of the service's own: that one connects.
    service.provider = ProviderClient.from_settings(
        settings, ProviderStandIn(_Journal(settings, service.database))
    )
    service.make_parts()
    return service


def _prepare(database: Database, settings: Settings) -> None:
    with database.read() as connection:
        is_current = revisions.is_current(connection)
    if not is_current:
        migrations.migrate(database)
    try:
        claim_identity(database, settings)
    except WrongDatabase as error:
        raise WrongDatabase(
            "TEST_KEYS_DATABASE_URL names a database that serves an account: test keys need one of their own"
        ) from error


class _Journal:
    """Keeps the stand-in's reports as AT's are kept that a request brings: journaled, for the worker to apply."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def __call__(self, bodies: Sequence[bytes]) -> None:
        """In one commit. Raises CannotKeep."""
        region = self._settings.default_region
        reports = [read_callback("report", body, FORM, region) for body in bodies]
        if not reports:
            return
        try:
            with self._database.write() as connection:
                apply_group(self._settings, connection, reports)
        except SQLAlchemyError as error:
            raise CannotKeep from error
