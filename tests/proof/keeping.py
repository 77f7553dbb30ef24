"""Scenarios of files and of the database itself: an import, a backup, a migration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import bindparam, text

from messaging import statuses
from messaging.batches import import_pace
from messaging.operations.backup import back_up, verify
from messaging.storage import migrations, sqlite_copy, tables
from tests.crash import load
from tests.crash.books import Books
from tests.proof.scenario import DIES, KILLED, STALLED, Call, Scenario
from tests.proof.sending import import_file, repeat_upload, upload, whole_file
from tests.proof.world import World
from tests.support.delivery import phones
from utils.errors import BackupFailed

DELIVERED = frozenset({statuses.DELIVERED})


def import_in_chunks(world: World) -> None:
    """Of two rows each, so that a file of three has a first and a last one."""
    import_pace.POSTGRESQL_CHUNK = import_pace.SMALLEST_CHUNK = import_pace.ALONE_CHUNK = 2
    upload(world)
    import_file(world)


KEPT = Call(load.API, "key-30", "A text in the backup", tuple(phones(3)))


def target(world: World) -> Path:
    return world.store.folder / "copy"


def have_a_backup(world: World) -> None:
    target(world).unlink(missing_ok=True)
    back_up(world.database, target(world))
    world.say("earlier", digest=digest(world))
    KEPT.make(world)


def take_backup(world: World) -> None:
    """In small pieces, between which the process may end."""
    sqlite_copy.PAGES_PER_STEP = 16
    back_up(world.database, target(world))
    world.say("backed up")


def digest(world: World) -> str:
    return hashlib.sha256(target(world).read_bytes()).hexdigest()


def is_whole(world: World, _books: Books) -> Iterator[str]:
    """The file is the earlier copy to the last byte, or the whole new one; and the next backup works."""
    said = {one["kind"]: one for one in world.heard}
    if "backed up" in said or digest(world) != said["earlier"]["digest"]:
        try:
            copy = verify(world.database, target(world))
        except BackupFailed as error:
            yield str(error)
        else:
            if not copy.ok or copy.verdict.messages != len(KEPT.to):
                yield f"the backup says: {copy}"
    if not back_up(world.database, target(world)).ok:
        yield "the next backup is not sound"


OLD_REVISION = "57662f46bcd8"
OLD_TEXT = "A text of an earlier release"
OLD = text(
    "INSERT INTO messages (recipient, text, origin, priority, status, on_unknown, due_at, created_at)"
    " VALUES (:recipient, :text, 'api', 1, 'queued', 'hold', :at, :at)"
).bindparams(bindparam("at", type_=tables.messages.c.created_at.type))


def write_old_rows(world: World) -> None:
    with world.database.write() as connection:
        at = world.database.clocks.wall(connection)
        for one in phones(2):
            connection.execute(OLD, {"recipient": one, "text": OLD_TEXT, "at": at})


def migrate(world: World) -> None:
    migrations.migrate(world.database)


def all_old_rows(_world: World, books: Books) -> Iterator[str]:
    yield from (f"{one} got no text" for one in phones(2) if (one, OLD_TEXT) not in books.taken)


SCENARIOS = [
    Scenario(
        "import of a file",
        import_in_chunks,
        finish=repeat_upload,
        statuses=DELIVERED,
        more=whole_file,
        ways=(DIES, KILLED, STALLED),
    ),
    Scenario(
        "backup",
        take_backup,
        set_up=have_a_backup,
        calls=(KEPT,),
        statuses=DELIVERED,
        more=is_whole,
        ways=(DIES, KILLED),
    ),
    Scenario(
        "migration",
        migrate,
        set_up=write_old_rows,
        finish=migrate,
        statuses=DELIVERED,
        more=all_old_rows,
        revision=OLD_REVISION,
        ways=(DIES, KILLED),
    ),
]
