"""`make migration m="…"`: a new migration, to be read before it is kept.

It is the difference between the tables that the code names and those that the migrations so far make. They are made
in a database of its own for that, so the database of the settings is neither needed nor touched.
"""

from __future__ import annotations

import sys
import tempfile

from messaging.storage.database import Database
from messaging.storage.migrations import migrate, write_revision


def write_migration(message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/empty.db")
        try:
            migrate(database)
            write_revision(database, message)
        finally:
            database.close()


if __name__ == "__main__":
    write_migration(" ".join(sys.argv[1:]))
