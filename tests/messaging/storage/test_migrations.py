from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Boolean, Column, Float, Integer, LargeBinary, Table, event, insert, inspect, text
from sqlalchemy.types import SmallInteger

from messaging.operations.health import require_migrated
from messaging.storage import migrations, revisions, tables
from messaging.storage.clocks import utc_now
from messaging.storage.column_types import UtcDateTime
from messaging.storage.database import Database
from tests.support.databases import KINDS, empty_database, opened
from tests.support.delivery import count
from tests.support.delivery_processes import in_processes, migrate


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database in which there is nothing at all."""
    folder = tmp_path / "empty"
    folder.mkdir()
    with empty_database(request.param, folder) as url:
        yield url


@pytest.fixture
def empty(url: str) -> Iterator[Database]:
    with opened(url) as database:
        yield database


VERSIONS = revisions.SCRIPTS / "versions"


def all_revisions() -> list[str]:
    """From the first to the newest."""
    config = Config()
    config.set_main_option("script_location", str(revisions.SCRIPTS))
    walked = ScriptDirectory.from_config(config).walk_revisions()
    return [script.revision for script in walked][::-1]


def value_for(column: Column[Any]) -> Any:
    if column.foreign_keys:
        return 1
    if isinstance(column.type, Float):
        return 0.5
    if isinstance(column.type, UtcDateTime):
        return utc_now()
    if isinstance(column.type, Boolean):
        return True
    if isinstance(column.type, LargeBinary):
        return b"\x00\xff"
    if column.type.python_type is int or isinstance(column.type, (Integer, SmallInteger)):
        return 1
    return "x"


def fill(database: Database) -> None:
    """One row in every table, with a value in every column."""
    with database.write() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(insert(table).values({column: value_for(column) for column in table.columns}))


def all_tables(database: Database) -> set[str]:
    names = inspect(database.engine).get_table_names()
    return {one for one in names if tables.is_modelled(one, "table")} - {"alembic_version"}


def definitions(database: Database) -> set[str]:
    """Every index with its condition, which Alembic does not compare."""
    statement = (
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND name NOT LIKE 'alembic%'"
        if database.is_sqlite
        else "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        " AND tablename NOT LIKE 'huey%'"
    )
    with database.read() as connection:
        found = connection.execute(text(statement)).scalars()
        return {" ".join(each.replace('"', "").split()) for each in found}


def is_current(database: Database) -> bool:
    with database.read() as connection:
        return revisions.is_current(connection)


def test_an_empty_database_is_not_current_and_a_migrated_one_is(empty: Database) -> None:
    assert not is_current(empty)
    migrations.migrate(empty)
    assert is_current(empty)
    assert all_tables(empty) == {table.name for table in tables.metadata.sorted_tables}


def test_a_database_of_a_newer_release_is_named_as_such_and_left_alone(empty: Database) -> None:
    migrations.migrate(empty)
    with empty.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'f00dfeedbeef'"))

    for look in (migrations.migrate, require_migrated):
        with pytest.raises(revisions.DatabaseIsNewer):
            look(empty)
    assert all_tables(empty) == {table.name for table in tables.metadata.sorted_tables}


def test_the_migrations_make_what_the_models_say(empty: Database) -> None:
    migrations.migrate(empty)
    with empty.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_name": tables.is_modelled}
        )
        assert compare_metadata(context, tables.metadata) == []


def test_the_migrations_make_every_index_with_its_condition(empty: Database, database: Database) -> None:
    if empty.is_sqlite is not database.is_sqlite:
        pytest.skip("the two databases of this test are of one kind")
    migrations.migrate(empty)
    assert definitions(empty) == definitions(database)


def test_up_down_and_up_again_with_rows_in_every_table(empty: Database) -> None:
    migrations.migrate(empty)
    fill(empty)
    migrations.downgrade(empty, "base")
    assert all_tables(empty) == set()
    assert not is_current(empty)
    migrations.migrate(empty)
    assert is_current(empty)
    fill(empty)


def test_each_revision_can_be_taken_back_and_done_again_over_rows(empty: Database) -> None:
    every = all_revisions()
    migrations.migrate(empty)
    fill(empty)
    for below, above in reversed(list(pairwise(every))):
        migrations.downgrade(empty, below)
        migrations.migrate(empty, above)
        migrations.downgrade(empty, below)
    migrations.migrate(empty)
    assert is_current(empty)


def test_a_migration_done_twice_keeps_the_rows(empty: Database) -> None:
    migrations.migrate(empty)
    fill(empty)
    migrations.migrate(empty)
    assert [table.name for table in tables.metadata.sorted_tables if count(empty, table) != 1] == []


def test_a_migration_leaves_no_lock_behind(url: str, empty: Database) -> None:
    """Its process may go on to serve, and another release may start beside it."""
    migrations.migrate(empty)
    assert in_processes(migrate, [(url,)]) == [True]


def test_two_releases_that_start_at_once_migrate_one_after_the_other(url: str, empty: Database) -> None:
    assert in_processes(migrate, [(url,)] * 3) == [True] * 3
    assert is_current(empty)


def test_no_other_process_writes_to_sqlite_between_two_revisions(empty: Database) -> None:
    """It would do a revision that this one has planned already: "table forward_events already exists"."""
    if not empty.is_sqlite:
        pytest.skip("PostgreSQL: an advisory lock is held throughout")
    commits: list[int] = []
    event.listen(empty.engine, "commit", lambda _connection: commits.append(1))
    migrations.migrate(empty)
    assert len(commits) == 1


def test_a_migration_that_fails_changes_nothing(empty: Database) -> None:
    with empty.write() as connection:
        connection.execute(text("CREATE TABLE messages (id INTEGER PRIMARY KEY)"))
    with pytest.raises(Exception, match="messages"):
        migrations.migrate(empty)
    assert all_tables(empty) == {"messages"}
    assert not is_current(empty)


def test_the_newest_revision_is_one() -> None:
    """Two heads come of two branches that were merged: nobody could migrate then."""
    config = Config()
    config.set_main_option("script_location", str(revisions.SCRIPTS))
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_every_table_has_a_value_for_every_column() -> None:
    """What `fill` relies on: a foreign key is met by the one row of the table it names."""
    strangers: list[Table] = [
        table
        for table in tables.metadata.sorted_tables
        for column in table.columns
        for key in column.foreign_keys
        if key.column.name != "id"
    ]
    assert strangers == []


# Until here releases were stopped for a migration. What came later runs beside the release before it.
LAST_STOPPED = "1db32d65f186"
# Later ones that drop what the release before does not use any more.
DROPS_ON_PURPOSE: frozenset[str] = frozenset()
TAKES_AWAY = re.compile(
    r"\bdrop_|\bDROP\b|\balter_column\b|\bALTER COLUMN\b|\brename_table\b|\bRENAME\b|\bbatch_alter_table\b"
)


def takes_away(source: str) -> list[str]:
    """What of `upgrade()` the release before cannot live with: something that goes, or that it would have to fill."""
    (upgrade,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == "upgrade")
    calls = [node for node in ast.walk(upgrade) if isinstance(node, ast.Call)]
    added = [call for call in calls if getattr(call.func, "attr", "") == "add_column"]
    columns = [
        node for call in added for node in ast.walk(call) if isinstance(node, ast.Call) and node is not call
    ]
    wanting = [
        ast.unparse(one)
        for one in columns
        if "nullable=False" in ast.unparse(one) and "server_default" not in ast.unparse(one)
    ]
    return TAKES_AWAY.findall(ast.unparse(upgrade)) + wanting


def test_a_migration_only_adds() -> None:
    """CONTRIBUTING.md, "A migration", tells how something is taken away."""
    all_of_them = all_revisions()
    later = set(all_of_them[all_of_them.index(LAST_STOPPED) + 1 :])
    assert later > DROPS_ON_PURPOSE
    later -= DROPS_ON_PURPOSE
    found = {name: takes_away(path.read_text()) for name in later for path in VERSIONS.glob(f"{name}_*.py")}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("op.create_table('a', sa.Column('b', sa.Integer(), nullable=False))", False),
        ("op.add_column('a', sa.Column('b', sa.Integer(), nullable=True))", False),
        ("op.add_column('a', sa.Column('b', sa.Integer(), nullable=False, server_default='0'))", False),
        ("op.execute('ALTER TABLE a ADD COLUMN b BOOLEAN DEFAULT false NOT NULL')", False),
        ("op.add_column('a', sa.Column('b', sa.Integer(), nullable=False))", True),
        ("op.drop_column('a', 'b')", True),
        ("op.drop_index('ix_a_b')", True),
        ("op.rename_table('a', 'b')", True),
        ("op.alter_column('a', 'b', nullable=False)", True),
        ("op.execute('ALTER TABLE a DROP COLUMN b')", True),
        ("op.execute('ALTER TABLE a RENAME COLUMN b TO c')", True),
    ],
)
def test_the_search_for_what_takes_away_finds_it(line: str, is_found: bool) -> None:
    source = f"def upgrade() -> None:\n    {line}\n\ndef downgrade() -> None:\n    op.drop_table('a')\n"
    assert bool(takes_away(source)) is is_found
