"""Stand-ins for AT, for the tests of the delivery core. Named in a module's `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from messaging.storage.database import Database
from tests.support.delivery import Clock, live_settings
from tests.support.fake_provider import FakeProvider
from tests.support.simulator_process import SimulatorProcess
from utils.settings import Settings
from utils.sms_utils import ProviderClient


@pytest.fixture
def clock(database: Database) -> Clock:
    return Clock(database)


@pytest.fixture
def fake_at() -> Iterator[FakeProvider]:
    provider = FakeProvider()
    yield provider
    provider.close()


@pytest.fixture
def at_settings(database_url: str, fake_at: FakeProvider) -> Settings:
    return live_settings(database_url, fake_at.url)


@pytest.fixture
def client(at_settings: Settings) -> Iterator[ProviderClient]:
    client = ProviderClient.from_settings(at_settings)
    yield client
    client.close()


@pytest.fixture(scope="session")
def _simulator_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    yield process
    process.close()


@pytest.fixture
def simulator(_simulator_process: SimulatorProcess) -> SimulatorProcess:
    """The real simulator, emptied, no faults; it sends no reports, for nobody listens."""
    _simulator_process.reset()
    return _simulator_process


@pytest.fixture
def simulator_settings(database_url: str, simulator: SimulatorProcess) -> Settings:
    return live_settings(database_url, simulator.url)


@pytest.fixture
def simulator_client(simulator_settings: Settings) -> Iterator[ProviderClient]:
    client = ProviderClient.from_settings(simulator_settings)
    yield client
    client.close()
