"""What docs/operations.md tells to run after an erasure on PostgreSQL leaves nothing of it in the server's files."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from messaging.messages import search
from messaging.operations.forget import forget_in
from messaging.storage import migrations, tables
from messaging.storage.database import Database
from tests.support.databases import opened
from tests.support.delivery import queue
from tests.support.postgresql import PostgresqlServer, private_postgresql
from utils.setting_types import REPOSITORY

pytestmark = [pytest.mark.processes, pytest.mark.services]

ALICE, ALICE_SAYS = "+254711000701", "Your result is ready"
BEN, BEN_SAYS = "+254711000702", "Come on Monday"
# Whole pages of hers: what stood in a page that becomes empty is what a plain VACUUM leaves there.
COPIES = 100


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with private_postgresql() as found:
        yield found


@pytest.fixture
def database(server: PostgresqlServer) -> Iterator[Database]:
    with opened(server.url) as found:
        migrations.migrate(found)
        yield found


def documented() -> list[str]:
    page = (REPOSITORY / "docs/operations.md").read_text()
    (line,) = re.findall(r'^psql "\$DATABASE_URL" (.*VACUUM.*)$', page, re.MULTILINE)
    return re.findall(r'-c "([^"]+)"', line)


def run(server: PostgresqlServer, *statements: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def files_with(server: PostgresqlServer, word: str) -> set[str]:
    """In which folders of the server's own."""
    folder = server.folder
    files = (one for one in folder.rglob("*") if one.is_file())
    return {one.relative_to(folder).parts[0] for one in files if word.encode() in one.read_bytes()}


def test_nothing_of_who_was_forgotten_is_left_in_the_files(
    server: PostgresqlServer, database: Database
) -> None:
    for phone, text in ((BEN, BEN_SAYS), (ALICE, ALICE_SAYS), (BEN, BEN_SAYS)):
        queue(database, *[phone] * COPIES, text=text)
    with database.write() as connection:
        connection.execute(tables.messages.update().values(status="delivered"))
    search.index_new(database)
    # The planner's statistics quote what is frequent.
    run(server, "ANALYZE", "CHECKPOINT")
    for word in (ALICE, ALICE_SAYS, BEN, BEN_SAYS):
        assert files_with(server, word) == {"base", "pg_wal"}

    assert forget_in(database, ALICE) == {"messages": COPIES}
    run(server, *documented())
    assert files_with(server, ALICE) == files_with(server, ALICE_SAYS) == set()
    assert "base" in files_with(server, BEN)
    assert "base" in files_with(server, BEN_SAYS)
