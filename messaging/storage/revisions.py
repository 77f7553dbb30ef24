"""Which revision of the tables a database has, and whether it is the one of this release.

Every process asks at its start. Alembic could tell, but to import it and to read its scripts takes a fifth of a second
of processor time.
"""

from __future__ import annotations

import re
from functools import cache

from sqlalchemy import Connection, inspect, text

from utils.errors import ServiceError
from utils.setting_types import REPOSITORY

SCRIPTS = REPOSITORY / "migrations"
_REVISION = re.compile(r"^(down_)?revision = ['\"](\w+)['\"]$", re.MULTILINE)


class DatabaseIsNewer(ServiceError):
    code = "database_is_newer"
    sentence = "A newer release has migrated this database: start that release, or go back to a backup from before it"


def is_current(connection: Connection) -> bool:
    """Raises DatabaseIsNewer for a revision that these migrations do not have."""
    found = _revision_of(connection)
    known, newest = _known()
    if found is not None and found not in known:
        raise DatabaseIsNewer
    return found == newest


def newest() -> str:
    """The revision of this release."""
    return _known()[1]


def _revision_of(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@cache
def _known() -> tuple[frozenset[str], str]:
    """All revisions, and the one that none follows."""
    found = [
        match.groups()
        for path in (SCRIPTS / "versions").glob("*.py")
        for match in _REVISION.finditer(path.read_text(encoding="utf-8"))
    ]
    known = {revision for is_followed, revision in found if not is_followed}
    (newest,) = known - {revision for is_followed, revision in found if is_followed}
    return frozenset(known), newest
