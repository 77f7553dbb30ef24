from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from simulator.app import create_app
from simulator.config import Config
from simulator.state import EXTENSION, Simulator
from tests.simulator.real_simulator import RealSimulator, Receiver


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    app = create_app(Config(tmp_path / "simulator.db", service_url="http://127.0.0.1:9"))
    state: Simulator = app.extensions[EXTENSION]
    yield state
    state.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    """The simulator's routes without its callback threads: nothing is posted."""
    app = create_app(Config(tmp_path / "simulator.db", service_url="http://127.0.0.1:9"))
    with app.test_client() as client:
        yield client
    app.extensions[EXTENSION].close()


@pytest.fixture(scope="module")
def shared_receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(shared_receiver: Receiver) -> Receiver:
    shared_receiver.clear()
    return shared_receiver


@pytest.fixture(scope="module")
def shared_simulator(
    tmp_path_factory: pytest.TempPathFactory, shared_receiver: Receiver
) -> Iterator[RealSimulator]:
    database = tmp_path_factory.mktemp("simulator") / "simulator.db"
    with RealSimulator(database, shared_receiver.url) as shared:
        yield shared


@pytest.fixture
def real(shared_simulator: RealSimulator, receiver: Receiver) -> RealSimulator:
    """A real process, emptied before each test; the receiver after it, for a callback may be in the air."""
    shared_simulator.control("reset")
    receiver.clear()
    return shared_simulator


@pytest.fixture
def mortal(tmp_path: Path, receiver: Receiver) -> Iterator[RealSimulator]:
    """A real process of the test's own, to be killed."""
    with RealSimulator(tmp_path / "simulator.db", receiver.url) as mortal:
        yield mortal
