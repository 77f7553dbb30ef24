"""Many values or many rows in one statement, in the way that costs least on each store.

`one_of`        a condition "is one of these" with one parameter, whatever the length of the list
`as_array`      a list as the text of a PostgreSQL array
`as_json_rows`  rows for one statement of SQLite
`JsonRows`      rows for one statement of PostgreSQL
`insert_rows`   very many new rows: COPY on PostgreSQL, the driver's `executemany` on SQLite
`insert_for`    an INSERT that knows ON CONFLICT
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Connection,
    Dialect,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    column,
    func,
    literal_column,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeDecorator, TypeEngine

from messaging.storage.column_types import UtcDateTime

_PLACE: Final = "place"
_BASE64: Final[ColumnElement[str]] = literal_column("'base64'")
_TIME = UtcDateTime()


class ValueList(TypeDecorator[Sequence[Any]]):
    """An array's text on PostgreSQL, a JSON text on SQLite. `of` is the type of its items.

    As text, for psycopg writes an array item by item, at 1.3 ms for 500: more than the statement takes.
    """

    impl = Text
    cache_ok = True

    def __init__(self, of: type[Text] | type[BigInteger] = Text) -> None:
        super().__init__()
        self.of = of

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> Any:
        wanted = list(value or ())
        return json.dumps(wanted) if dialect.name == "sqlite" else as_array(wanted)


def as_array(values: Iterable[Any]) -> str:
    """The text of a PostgreSQL array of numbers, texts and NULLs, for `CAST(… AS text[])` and the like.

    Written as JSON, by C: where no backslash is needed, the two differ in their brackets only.
    """
    items = list(values)
    written = json.dumps(items, ensure_ascii=False, separators=(",", ":"), default=str)
    if "\\" in written:
        return "{" + ",".join(map(_as_item, items)) + "}"
    return "{" + written[1:-1] + "}"


def as_json_rows(rows: Iterable[Sequence[Any]]) -> str:
    """Many rows for one statement of SQLite, as `json_each` reads them: `json_extract(value, '$[0]')` and so on.

    `executemany` gives up Python's lock, and waits for it again, at every row: with busy threads beside it that
    takes many times what the rows do.
    """
    return json.dumps(list(rows), ensure_ascii=False, separators=(",", ":"))


def _as_item(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


class _OneOf(FunctionElement[bool]):
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: object = None) -> Any:  # noqa: ARG002
        """As it is: SQLAlchemy's `= 1` behind a truth value would keep SQLite from its indexes."""
        return self


def one_of(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """A condition whose list is given at execution, by the name `parameter`.

    A list of any length is the same statement, parsed once. SQLAlchemy's expanding IN renders the statement anew for
    every length: 6.3 ms against 2.6 for 500 ids on PostgreSQL, 1.8 against 1.4 on SQLite.
    """
    of = BigInteger if column.type.python_type is int else Text
    return _OneOf(column, bindparam(parameter, type_=ValueList(of)))


@compiles(_OneOf, "sqlite")
def _in_json(element: _OneOf, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  (both are compiled clauses)


@compiles(_OneOf, "postgresql")
def _equals_any(element: _OneOf, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    of = "bigint[]" if cast(ValueList, element.clauses.clauses[1].type).of is BigInteger else "text[]"
    return f"{column} = ANY(CAST({values} AS {of}))"


def insert_for(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """The dialect's own INSERT: both stores know ON CONFLICT, SQLAlchemy's common one does not."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def insert_or_ignore(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Whether the row went in; an equal key is left as it is."""
    statement = insert_for(connection, table).values(**row).on_conflict_do_nothing()
    # RETURNING rather than rowcount, which SQLAlchemy leaves unknown for an INSERT on PostgreSQL.
    return connection.execute(statement.returning(*table.primary_key.columns)).first() is not None


class JsonRows:
    """A table that is given at execution as one JSON text, by the parameter `name`; `types` are its columns.

    `executemany` sends and plans every row by itself, and an array for each column is dumped item by item in
    Python; JSON is written and read by C on both sides. With arrays a report cost 15 to 20 % more processor time.

    `columns` are what to select; ordered by `place` they come as they were given.
    """

    def __init__(self, name: str, types: Mapping[str, TypeEngine[Any]]) -> None:
        self.name = name
        self.names: Sequence[str] = list(types)
        kinds = {**{one: _json_type(kind) for one, kind in types.items()}, _PLACE: Integer()}
        rows = func.json_to_recordset(sql_cast(bindparam(name, type_=Text()), JSON()))
        table = rows.table_valued(*[column(one, kind) for one, kind in kinds.items()])
        self.table: TableValuedAlias = table.render_derived(name=name, with_types=True)
        self.place = self.table.c[_PLACE]
        self.columns = [_out_of_json(self.table.c[one], kind) for one, kind in types.items()]

    def given(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """The parameter that fills it. What a row holds besides the columns is left out."""
        chosen = [{_PLACE: place, **{one: row[one] for one in self.names}} for place, row in enumerate(rows)]
        return {self.name: json.dumps(chosen, default=_json_value)}


def _json_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """A cast to VARCHAR(10) would cut what is longer, where an INSERT refuses it."""
    return Text() if isinstance(kind, String | LargeBinary) else kind


def _out_of_json(value: ColumnElement[Any], kind: TypeEngine[Any]) -> ColumnElement[Any]:
    return func.decode(value, _BASE64) if isinstance(kind, LargeBinary) else value


def _json_value(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no place in a row")


def insert_rows(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Into the caller's transaction. Times in `rows` have to be as `as_stored` gives them; ids may be left out.

    SQLAlchemy's binding of a dict per row costs several times the insert itself.
    """
    if not rows:
        return
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608  (names of our tables)
        connection.exec_driver_sql(statement, [tuple(row) for row in rows])
    else:
        _copy(connection, f"COPY {table.name} ({names}) FROM STDIN", rows)


def as_stored(connection: Connection, at: datetime | None) -> Any:
    return _TIME.process_bind_param(at, connection.dialect)


def _copy(connection: Connection, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    # Only where it is used: a command on SQLite need not wait for its import.
    import psycopg

    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        # As SQLAlchemy's own statements fail, for nobody up there waits for the driver's: a full disk would end
        # the importer's thread for good.
        raise DBAPIError.instance(
            statement, None, error, psycopg.Error, dialect=connection.dialect
        ) from error
