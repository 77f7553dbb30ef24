"""What leaves is also written outside the database: a backup that is put back does not know what was sent after it.

Before the bytes of a POST leave, its process appends a line to a file of its own in WITNESS_DIR: which attempt, which
messages, and keyed hashes of the recipients and the text, but no number and no text. Whoever finds later that the
database lacks an attempt can tell from it what must not be sent again (messaging.operations.recovery).

A line is a checksum and a JSON object. A process that dies in the middle of one leaves a line that is not read; its
POST did not leave. A background thread makes the file durable each second: what a kill cannot take, a power cut may.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from messaging.messages.lost_texts import digest_of_text
from messaging.sending.origins import NO_ORIGIN, Origin
from messaging.sending.start_post import Posting
from messaging.storage.column_types import EPOCH, MICROSECOND
from messaging.storage.database import Database
from messaging.storage.identity import DIGEST_BYTES
from messaging.storage.rollback import MOST_TOKENS, Beat, Remembered
from utils.errors import WitnessUnwritable
from utils.private_files import FILE_MODE, FOLDER_MODE
from utils.settings import Settings

ENDING = ".witness"
LOCK_FILE = "lock"
SYNC_SECONDS = 1.0
# After a failure: until then nothing is claimed, so that rows do not go to and fro.
TRY_AGAIN_SECONDS = 5.0
# More than the line of the largest POST: where this can be written, that can.
PROBE_BYTES = 256 * 1024
# The last lines of a file, some of the largest among them.
TAIL_BYTES = 256 * 1024
_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})-[0-9a-f]+\.witness")
_HEX = 2 * DIGEST_BYTES

logger = logging.getLogger(__name__)


class Record(NamedTuple):
    """One POST. Hashes are of `Identity.digest`; `recipients` has one for each message."""

    database_id: str
    token: str
    attempt_id: int
    posting_at: datetime
    is_trigger: bool
    text: str
    message_ids: list[int]
    recipients: list[str]
    # For each message, or one for all of them.
    origins: list[Origin]
    # The batch with a max_cost, and what was held back of it.
    budget: tuple[int, int] | None = None

    def origin_of(self, place: int) -> Origin:
        return self.origins[place] if len(self.origins) > 1 else self.origins[0]


class Witness:
    """The file of this process. Nothing is opened before the first line."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._rollback = database.rollback
        self._rollback.recall = self._recall
        self.folder = Path(settings.witness_dir)
        self._kept = timedelta(days=settings.witness_days)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._day: date | None = None
        self._unsynced = threading.Event()
        self._problem: str | None = None
        self._next_try = 0.0
        self._syncer: threading.Thread | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Round the last check and the line that follows it, so that whoever reads the files waits for the line.

        Without it a process that stops between the two would append when everybody has read.
        """
        try:
            descriptor = _open_lock(self.folder)
        except OSError as error:
            raise self._failed(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def note(self, posting: Posting) -> None:
        """Before the bytes leave. Raises WitnessUnwritable: then they must not."""
        self._write(_line(_fields_of(posting)))
        self._rollback.left(posting.identity.database_id, posting.claim.token)

    def note_beat(self, beat: Beat) -> None:
        """After its commit. Raises WitnessUnwritable."""
        self._write(_line({"database": beat.database_id, "counter": beat.counter}))
        self._rollback.seen(beat)

    def _write(self, line: bytes) -> None:
        with self._lock:
            try:
                self._append(line)
            except OSError as error:
                self._close()
                raise self._failed(error) from error
        self._unsynced.set()

    def is_writable(self) -> bool:
        """False for a while after a failure; then it is tried whether there is room again."""
        if self._problem is None:
            return True
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + TRY_AGAIN_SECONDS
        self._problem = find_problem(self.folder)
        if self._problem is None:
            logger.info("the witness can be written again")
        return self._problem is None

    def require_writable(self) -> None:
        """Raises WitnessUnwritable."""
        if not self.is_writable():
            raise WitnessUnwritable(f"{WitnessUnwritable.sentence}: {self._problem}")

    def _recall(self, database_id: str) -> Remembered:
        since = datetime.now(UTC) - self._kept
        return recall(self.folder, database_id, since)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _append(self, line: bytes) -> None:
        descriptor = self._current()
        written = os.write(descriptor, line)
        if written < len(line):
            raise OSError(0, f"only {written} of {len(line)} bytes could be written")

    def _current(self) -> int:
        today = datetime.now(UTC).date()
        if self._descriptor is None or self._day != today:
            self._close()
            make_folder(self.folder)
            _forget_old(self.folder, today - self._kept)
            self._descriptor = _create(self.folder, today)
            self._day = today
            self._start_syncing()
        return self._descriptor

    def _close(self) -> None:
        """Also after a line that is only half there: what would follow it in the same file could not be read."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None

    def _failed(self, error: OSError) -> WitnessUnwritable:
        why = error.strerror or str(error)
        if self._problem is None:
            logger.error("nothing is sent: the witness cannot be written", extra={"why": why})
        self._problem = why
        self._next_try = time.monotonic() + TRY_AGAIN_SECONDS
        return WitnessUnwritable(f"{WitnessUnwritable.sentence}: {why}")

    def _start_syncing(self) -> None:
        if self._syncer is None:
            self._syncer = threading.Thread(target=self._sync, name="witness", daemon=True)
            self._syncer.start()

    def _sync(self) -> None:
        while True:
            self._unsynced.wait()
            time.sleep(SYNC_SECONDS)
            self._unsynced.clear()
            # A copy of the descriptor: nobody who has a line to write waits for the disk.
            with self._lock:
                copy = None if self._descriptor is None else os.dup(self._descriptor)
            if copy is None:
                continue
            try:
                os.fsync(copy)
            except OSError as error:
                with self._lock:
                    self._close()
                    self._failed(error)
            finally:
                os.close(copy)


def make_folder(folder: Path) -> None:
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)


def find_problem(folder: Path) -> str | None:
    """Why a line could not be written there now; None where it could."""
    probe = folder / f"probe-{secrets.token_hex(4)}"
    try:
        make_folder(folder)
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            written = os.write(descriptor, bytes(PROBE_BYTES))
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return None if written == PROBE_BYTES else "no space left"


def read_records(folder: Path, database_id: str, since: datetime) -> Iterator[Record]:
    """Every POST of this database that any process of this machine has begun since then, file by file."""
    for path in files_in(folder):
        if _day_of(path) >= since.date():
            posts = (_record(fields) for fields in _read(path) if "token" in fields)
            yield from (one for one in posts if one.database_id == database_id and one.posting_at >= since)


def recall(folder: Path, database_id: str, since: datetime) -> Remembered:
    """By the ends of the files: the last POSTs, and how high the counter was."""
    lines = [
        fields
        for path in files_in(folder)
        if _day_of(path) >= since.date()
        for fields in _tail(path)
        if fields["database"] == database_id
    ]
    posts = sorted((fields for fields in lines if "token" in fields), key=lambda fields: int(fields["at"]))
    tokens = [fields["token"] for fields in posts[-MOST_TOKENS:]]
    return Remembered(tokens, max((fields.get("counter", 0) for fields in lines), default=0))


def read_counter(folder: Path, database_id: str) -> int:
    """The highest that any file has, however far from its end."""
    lines = (fields for path in files_in(folder) for fields in _read(path))
    return max((one.get("counter", 0) for one in lines if one["database"] == database_id), default=0)


def files_in(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(path for path in found if _DAY.fullmatch(path.name))


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from _lines(file)


def _tail(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        # Where that is in the middle of a line, its end has no sound checksum.
        file.seek(max(0, size - TAIL_BYTES))
        yield from _lines(file)


def _lines(file: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    return (fields for line in file if (fields := _checked(line)) is not None)


def _fields_of(posting: Posting) -> dict[str, Any]:
    claim, identity = posting.claim, posting.identity
    budget = {} if claim.budget is None else {"budget": claim.budget[:2]}
    origins = [claim.origins.get(one, NO_ORIGIN) for one in claim.recipients.values()]
    return budget | {
        "database": identity.database_id,
        "token": claim.token,
        "attempt": claim.attempt_id,
        "at": (posting.posting_at - EPOCH) // MICROSECOND,
        "trigger": claim.is_trigger,
        "text": digest_of_text(identity, claim.sender_id, claim.text),
        "messages": list(claim.recipients.values()),
        "recipients": identity.digests(list(claim.recipients)),
        # Mostly all are of one batch.
        "origins": origins if len(set(origins)) > 1 else origins[:1],
    }


def _record(fields: dict[str, Any]) -> Record:
    digests = fields["recipients"]
    return Record(
        fields["database"],
        fields["token"],
        fields["attempt"],
        EPOCH + fields["at"] * MICROSECOND,
        fields["trigger"],
        fields["text"],
        fields["messages"],
        [digests[start : start + _HEX] for start in range(0, len(digests), _HEX)],
        [Origin(*one) for one in fields["origins"]],
        (budget[0], budget[1]) if (budget := fields.get("budget")) else None,
    )


def _line(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _checked(line: bytes) -> dict[str, Any] | None:
    """None: a line that is torn or damaged."""
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    fields: dict[str, Any] = json.loads(body)
    return fields


def _create(folder: Path, day: date) -> int:
    path = folder / f"{day.isoformat()}-{secrets.token_hex(8)}{ENDING}"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(path, flags, FILE_MODE)


def _open_lock(folder: Path) -> int:
    path, flags = folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, FILE_MODE)
    except FileNotFoundError:
        make_folder(folder)
        return os.open(path, flags, FILE_MODE)


def _forget_old(folder: Path, before: date) -> None:
    for path in files_in(folder):
        if _day_of(path) < before:
            path.unlink(missing_ok=True)


def _day_of(path: Path) -> date:
    found = _DAY.fullmatch(path.name)
    return date.fromisoformat(found[1]) if found else date.min
