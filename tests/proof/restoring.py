"""Scenarios of a database that went backwards: what left after the copy is known to the witness alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from messaging.operations.backup import back_up
from tests.crash import load
from tests.proof.scenario import DIES, KILLED, Call, Scenario
from tests.proof.world import World
from tests.support.delivery import phone, phones

KEPT = Call(load.API, "key-40", "A text that the backup holds", (phone(1), phone(2)))
BATCH = Call(load.API, "key-41", "A batch that the backup holds", tuple(phones(12, first=11)))


def copy(world: World) -> Path:
    return world.store.folder / "copy"


def accept_and_copy(world: World) -> None:
    KEPT.make(world)
    BATCH.make(world)
    back_up(world.database, copy(world))


def send_all(world: World) -> None:
    world.sender().run_until_idle()


def put_back(world: World) -> None:
    """Before this process has opened the database."""
    path = Path(world.store.url.removeprefix("sqlite:///"))
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    shutil.copy(copy(world), path)


SCENARIOS = [
    Scenario(
        "sending before a restore",
        send_all,
        set_up=accept_and_copy,
        finish=put_back,
        calls=(KEPT, BATCH),
        settings={"at_max_recipients": 5},
        ways=(DIES, KILLED),
        stores=("sqlite",),
    ),
]
