"""What a benchmark says: tables for people, figures for programs."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

FOLDER = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """`figures` must be JSON's types. `notes`: how it was measured, and what was verified."""

    tables: list[Table]
    figures: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of what the rounds gave, and its ends."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "lowest": self.lowest, "highest": self.highest}

    def as_text(self, digits: int = 2) -> str:
        ends = f"{self.lowest:.{digits}f} to {self.highest:.{digits}f}"
        return f"{self.median:.{digits}f} ({ends})"


def show(console: Console, result: Result) -> None:
    for table in result.tables:
        drawn = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            drawn.add_column(column, justify="right" if number else "left")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
    for note in result.notes:
        console.print(f"- {note}")


def save(name: str, result: Result, seconds: float) -> Path:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    written = {
        "benchmark": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_seconds": round(seconds, 1),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "notes": result.notes,
        **result.figures,
    }
    path.write_text(json.dumps(written, indent=2) + "\n")
    return path
