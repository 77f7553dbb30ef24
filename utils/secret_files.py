"""What is made at random at first use and kept in a file of the service's own: offline nobody sets `SECRET_KEY`."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from utils.private_files import make_private_folder

BYTES = 32


def read_or_make(path: Path, size: int = BYTES) -> str:
    """Processes that start together get the same one."""
    make_private_folder(path.parent)
    descriptor, mine = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(size))
    # Whole from its first moment, and the first one stays.
    with suppress(FileExistsError):
        os.link(mine, path)
    Path(mine).unlink()
    return path.read_text(encoding="ascii")
