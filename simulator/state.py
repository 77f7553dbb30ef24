"""The parts of one running simulator, and how a view finds them."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from .blacklist import Blacklist
from .config import Config
from .courier import Courier
from .faults import Faults
from .store import Store

EXTENSION = "simulator"


@dataclass(frozen=True, slots=True)
class Simulator:
    config: Config
    store: Store
    faults: Faults
    blacklist: Blacklist
    courier: Courier

    @classmethod
    def from_config(cls, config: Config) -> "Simulator":
        store = Store(config.database)
        return cls(config, store, Faults(store), Blacklist(store), Courier(store, config))

    def reset(self) -> None:
        """As new: no texts, no faults, nothing owed, nobody blocked; held connections are cut."""
        self.store.reset()
        self.faults.reload()
        self.blacklist.reload()

    def close(self) -> None:
        self.courier.stop()
        self.store.close()


def current_simulator() -> Simulator:
    return cast(Simulator, current_app.extensions[EXTENSION])
