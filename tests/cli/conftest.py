"""A command on the test's database and on a stand-in for AT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from click.testing import Result
from flask_openapi.openapi import OpenAPI
from sqlalchemy import text

from app import create_app
from messaging.storage.database import Database
from messaging.storage.migrations import SCRIPTS
from tests.support.fake_provider import FakeProvider
from utils.settings import Settings

Sms = Callable[..., Result]


@pytest.fixture
def migrated(database: Database) -> Iterator[Database]:
    """The tables are there already; this writes down that they are the newest."""
    with database.engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        command.stamp(config, "head")
        connection.commit()
    yield database
    with database.write() as connection:
        connection.execute(text("DROP TABLE alembic_version"))


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    provider = FakeProvider()
    yield provider
    provider.close()


@pytest.fixture
def settings(database_url: str, provider: FakeProvider, tmp_path: Path) -> Settings:
    queue_url = f"sqlite:///{tmp_path}/queue.db"
    return Settings(
        database_url=database_url, at_base_url=provider.url, queue_url=queue_url, log_level="ERROR"
    )


@pytest.fixture
def app(settings: Settings) -> Iterator[OpenAPI]:
    app = create_app(settings)
    yield app
    app.extensions["sms"].callback_receiver.stop()
    app.extensions["sms"].database.close()


@pytest.fixture
def sms(app: OpenAPI) -> Sms:
    def call(*arguments: str, typed: str | None = None) -> Result:
        return app.test_cli_runner().invoke(args=["sms", *arguments], input=typed)

    return call
