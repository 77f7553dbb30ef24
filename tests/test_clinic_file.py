"""A file as a clinic brings it: every row is a text that was received, or stands in a list with its line and reason."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.databases import empty_database
from tests.support.stack import API_KEY, Stack, eventually
from tests.support.workbooks import workbook

pytestmark = pytest.mark.processes

ROWS = 2_000
TEXT = "Dear {{name|friend}}, {{child}} is due on {{day}}"
NAMES = ("Amélie", "Chukwuemeka", "Wanjikũ", "Đorđe", "NULL", "O'Neil", "Zoë", "")


class Row(NamedTuple):
    phone: str
    name: str
    child: str
    day: str


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("clinic")
    with empty_database(request.param, folder) as database_url:
        stack = Stack(folder, database_url, {"DEFAULT_REGION": "KE"})
        try:
            stack.start_all()
            yield stack
        finally:
            stack.close()


def number_of(person: int, first: int) -> str:
    """National, without its zero. The last digits mean no fate of the simulator."""
    return f"7{first}{person:05d}50"[:9]


def rows_of(first: int) -> list[Row]:
    rows = []
    for person in range(ROWS - 3):
        national = number_of(person, first)
        spelt = {
            0: f"+254{national}",
            1: f"254{national}",
            2: f"0{national}",
            3: national,
            4: f"+254 {national[:3]}-{national[3:6]}.{national[6:]}",
            5: f"\u202a0{national[:3]} {national[3:]}\u202c",
            6: f"'0{national}",
            # Spoiled: a digit short, no number, two numbers.
            7: ("0711 22 33", "nan", f"+254{national}/1", "2.547E+11")[person % 4]
            if person % 40 < 8
            else national,
        }[person % 8]
        rows.append(Row(spelt, NAMES[person % len(NAMES)], f"Child {person}", f"{person % 28 + 1} March"))
    # A parent of two: two texts. The same row once more: a duplicate, in another spelling too.
    parent = number_of(0, first)
    rows.append(Row(f"0{parent}", "Amélie", "Her sister", "2 March"))
    rows.append(Row(f"0{parent}", "Amélie", "Her sister", "2 March"))
    rows.append(Row(f"+254{parent}", "Amélie", "Her sister", "2 March"))
    return rows


def as_csv(rows: list[Row]) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows([("Mobile", "Name", "Child", "Day"), *rows])
    return file.getvalue().encode()


def as_workbook(rows: list[Row]) -> bytes:
    return workbook({"People": [["Mobile", "Name", "Child", "Day"], *map(list, rows)]})


def post(stack: Stack, path: str, content: bytes, name: str) -> Any:
    answer = stack.session.post(
        f"{stack.web_url}{path}",
        data={"text": TEXT},
        files={"file": (name, content)},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=60,
    )
    assert answer.ok, answer.text
    return answer.json()


def lines_of(stack: Stack, path: str) -> list[int]:
    reader = csv.DictReader(io.StringIO(stack.get(path).content.decode("utf-8-sig")))
    rows = list(reader)
    assert all(row["reason"] for row in rows if "reason" in row)
    return [int(row["line"]) for row in rows]


# What a workbook says is read before any store sees it.
@pytest.mark.parametrize(
    ("stack", "make", "name", "first"),
    [
        ("sqlite", as_csv, "people.csv", 1),
        ("sqlite", as_workbook, "people.xlsx", 2),
        pytest.param("postgresql", as_csv, "people.csv", 1, marks=pytest.mark.services),
    ],
    indirect=["stack"],
)
def test_each_row_is_a_text_that_was_received_or_is_listed_with_its_line(
    stack: Stack, make: Any, name: str, first: int
) -> None:
    rows = rows_of(first)
    content = make(rows)
    quoted = post(stack, "/v1/quote", content, name)

    batch = f"/v1/batches/{post(stack, '/v1/batches', content, name)['id']}"

    eventually(lambda: stack.get(batch).json()["status"] == "finished", "the batch is finished", 180)
    refused, twice = lines_of(stack, f"{batch}/refused.csv"), lines_of(stack, f"{batch}/duplicates.csv")
    left_out = {*refused, *twice}
    assert len(left_out) == len(refused) + len(twice)
    # The header is line 1.
    taken = [row for line, row in enumerate(rows, start=2) if line not in left_out]
    delivered = {"delivered": len(taken)}
    eventually(lambda: stack.get(batch).json()["counts"] == delivered, "all reports have come", 60)
    ours = [item for item in stack.ledger() if item["to"].startswith(f"+2547{first}")]
    assert len(ours) == quoted["recipients"] == len(taken)
    assert (len(refused), len(twice)) == (quoted["refused_total"], quoted["duplicates"]) != (0, 0)
    wanted = Counter(
        f"Dear {row.name if row.name not in ('', 'NULL') else 'friend'}, {row.child} is due on {row.day}"
        for row in taken
    )
    assert Counter(item["text"] for item in ours) == wanted
    assert len(taken) + len(refused) + len(twice) == ROWS
    assert len(twice) == 2
    assert stack.get("/v1/audit").json()["problems"] == []
